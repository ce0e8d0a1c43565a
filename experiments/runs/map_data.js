"use strict";
/* The numbers and images of the map; map_points.py says what its data hold.
   latentmix.mapData(data) promises typed arrays in the place of packed texts, and the picture of all images. */
(() => {
  const latentmix = (globalThis.latentmix ??= {});

  /* Bytes of base64 of zlib, whose numbers have all first bytes before all second ones. */
  async function bytes(text, width) {
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(stream).arrayBuffer()),
      numbers = new Uint8Array(planes.length);
    const count = planes.length / width;
    for (let place = 0, from = 0; place < width; place++)
      for (let k = 0; k < count; k++) numbers[k * width + place] = planes[from++];
    return numbers.buffer;
  }

  const unpack = async (text, Kind) => (text ? new Kind(await bytes(text, Kind.BYTES_PER_ELEMENT)) : null);

  function single(half) {
    const power = (half >> 10) & 31,
      part = ((half & 1023) + (power ? 1024 : 0)) * 2 ** (Math.max(power, 1) - 25);
    return half & 32768 ? -part : part;
  }

  async function fitOf(fit) {
    const [roots, assigned, means, halves] = await Promise.all([
      unpack(fit.responsibilities, Uint8Array),
      unpack(fit.assigned, Uint16Array),
      unpack(fit.means, Float32Array),
      unpack(fit.covariances, Uint16Array),
    ]);
    const budgets = {};
    for (const [name, budget] of Object.entries(fit.budgets))
      budgets[name] = { ...budget, predicted: await unpack(budget.predicted, Uint16Array) };
    return { ...fit, roots, assigned, means, budgets, lower: halves && Float32Array.from(halves, single) };
  }

  async function pictureOf({ data }) {
    const picture = new Image();
    picture.src = `data:image/webp;base64,${data}`;
    await picture.decode();
    return picture;
  }

  async function neighboursOf({ rows, points }) {
    return { rows: await unpack(rows, Uint16Array), points: await unpack(points, Uint16Array) };
  }

  latentmix.mapData = async (data) => ({
    steps: await unpack(data.latents, Int16Array),
    labels: await unpack(data.labels, Uint16Array),
    values: await unpack(data.values, Float32Array),
    picture: data.images && (await pictureOf(data.images)),
    placed: data.images && (await unpack(data.images.rows, Uint16Array)),
    tsne: data.tsne && (await neighboursOf(data.tsne)),
    fits: await Promise.all(data.fits.map(fitOf)),
  });
})();
