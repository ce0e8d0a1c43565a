"use strict";
/* The plot of the map, of Bokeh's models: it is drawn on a canvas, as Bokeh's WebGL would need eval.
   latentmix.mapPlot(n) gives the plot of n points and the sources, ranges and tools that map.js changes. */
(() => {
  const latentmix = (globalThis.latentmix ??= {});
  const { Plot, Range1d, LinearAxis, Grid, ColumnDataSource, CDSView, IndexFilter, Toolbar } = Bokeh.Models;
  const { GlyphRenderer, Scatter, MultiLine, Text } = Bokeh.Models;
  const { PanTool, WheelZoomTool, BoxZoomTool, BoxSelectTool, LassoSelectTool } = Bokeh.Models;
  Bokeh.logger.set_level("warn");

  latentmix.mapPlot = (n) => {
    const source = new ColumnDataSource({
      data: { x: new Float64Array(n), y: new Float64Array(n), colour: new Array(n).fill("") },
    });
    const ring = new ColumnDataSource({ data: { x: [], y: [] } });
    const outlines = new ColumnDataSource({ data: { xs: [], ys: [], colour: [], dash: [] } });
    const centres = new ColumnDataSource({ data: { x: [], y: [], name: [], colour: [] } });
    const view = new CDSView({ filter: new IndexFilter({ indices: [] }) });
    const field = (name) => ({ field: name });
    const dot = (alpha) =>
      new Scatter({
        x: field("x"),
        y: field("y"),
        size: n > 3000 ? 5 : 7,
        fill_color: field("colour"),
        fill_alpha: alpha,
        line_color: null,
      });
    const points = new GlyphRenderer({
      data_source: source,
      view,
      glyph: dot(0.75),
      selection_glyph: dot(1),
      nonselection_glyph: dot(0.12),
    });
    const halo = new Scatter({ x: field("x"), y: field("y"), size: 15, fill_color: null, line_width: 2.5 });
    const line = new MultiLine({
      xs: field("xs"),
      ys: field("ys"),
      line_color: field("colour"),
      line_width: 2,
      line_dash: field("dash"),
    });
    const names = new Text({
      x: field("x"),
      y: field("y"),
      text: field("name"),
      text_color: field("colour"),
      text_align: "center",
      text_baseline: "middle",
      text_font_size: "13px",
      text_font_style: "bold",
    });
    const renderer = (data_source, glyph) => new GlyphRenderer({ data_source, glyph, nonselection_glyph: glyph });
    const drags = {
      pan: new PanTool(),
      box_zoom: new BoxZoomTool(),
      box_select: new BoxSelectTool({ renderers: [points] }),
      lasso: new LassoSelectTool({ renderers: [points], continuous: false }),
    };
    const wheel = new WheelZoomTool();
    const x_range = new Range1d({ start: 0, end: 1 }),
      y_range = new Range1d({ start: 0, end: 1 });
    const across = new LinearAxis(),
      upwards = new LinearAxis();
    const grids = [new Grid({ axis: across }), new Grid({ axis: upwards, dimension: 1 })];
    const plot = new Plot({
      x_range,
      y_range,
      below: [across],
      left: [upwards],
      center: grids,
      renderers: [points, renderer(outlines, line), renderer(centres, names), renderer(ring, halo)],
      toolbar: new Toolbar({
        tools: [...Object.values(drags), wheel],
        active_drag: drags.pan,
        active_scroll: null,
        logo: null,
      }),
      toolbar_location: null,
      lod_factor: 5,
      sizing_mode: "stretch_both",
      min_border: 8,
    });

    function recolour({ ink, muted, rule, page }) {
      plot.setv({ background_fill_color: page, border_fill_color: page, outline_line_color: null });
      const ofAxes = {
        axis_label_text_color: ink,
        major_label_text_color: ink,
        axis_line_color: muted,
        major_tick_line_color: muted,
        minor_tick_line_color: null,
        axis_label_text_font_style: "normal",
      };
      for (const axis of [across, upwards]) axis.setv(ofAxes);
      for (const grid of grids) grid.grid_line_color = rule;
      halo.line_color = ink;
    }

    return { plot, source, ring, outlines, centres, view, drags, wheel, x_range, y_range, recolour };
  };
})();
