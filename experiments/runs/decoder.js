"use strict";
/* Decoders of LatentMix in the page, layer by layer; page_decoder.py says what a description holds.
   latentmix.decoder(description).decode(z) gives the mean of p(x|z) as a Float32Array in the order of its shape. */
(() => {
  const latentmix = (globalThis.latentmix ??= {});

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  function halves({ data, exponent }) {
    const view = new DataView(bytes(data).buffer);
    const values = new Float32Array(view.byteLength / 2);
    const powers = Float64Array.from({ length: 32 }, (_, power) => 2 ** (Math.max(power, 1) - 25 - exponent));
    for (let k = 0; k < values.length; k++) {
      const bits = view.getUint16(2 * k, true);
      const power = (bits >> 10) & 31;
      const size = ((bits & 1023) + (power ? 1024 : 0)) * powers[power];
      values[k] = bits & 32768 ? -size : size;
    }
    return values;
  }

  function singles(data) {
    const view = new DataView(bytes(data).buffer);
    return Float32Array.from({ length: view.byteLength / 4 }, (_, k) => view.getFloat32(4 * k, true));
  }

  const sigmoid = (x) => 1 / (1 + Math.exp(-x));

  const inPlace = (change) => () => (x) => {
    for (let k = 0; k < x.length; k++) x[k] = change(x[k]);
    return x;
  };

  /* Product of a row of `weight` from `start` with x; four sums at once, as each addition waits for the one before. */
  function dot(weight, start, x) {
    let a = 0, b = 0, c = 0, d = 0, k = 0;
    for (; k + 3 < x.length; k += 4, start += 4) {
      a += weight[start] * x[k];
      b += weight[start + 1] * x[k + 1];
      c += weight[start + 2] * x[k + 2];
      d += weight[start + 3] * x[k + 3];
    }
    for (; k < x.length; k++, start++) a += weight[start] * x[k];
    return a + b + c + d;
  }

  /* Offsets in a map of `size` of each tap of a kernel at a position, -1 where that lies outside. */
  function taps({ kernel, stride, padding, dilation }, size, row, column) {
    const places = new Int32Array(kernel[0] * kernel[1]);
    for (let i = 0, tap = 0; i < kernel[0]; i++) {
      const y = row * stride[0] - padding[0] + i * dilation[0];
      for (let j = 0; j < kernel[1]; j++, tap++) {
        const x = column * stride[1] - padding[1] + j * dilation[1];
        places[tap] = y >= 0 && y < size[0] && x >= 0 && x < size[1] ? y * size[1] + x : -1;
      }
    }
    return places;
  }

  function positions(layer, of, within) {
    const all = [];
    for (let row = 0; row < of[0]; row++)
      for (let column = 0; column < of[1]; column++) all.push(taps(layer, within, row, column));
    return all;
  }

  const LAYERS = {
    relu: inPlace((x) => (x > 0 ? x : 0)),
    sigmoid: inPlace(sigmoid),
    tanh: inPlace(Math.tanh),
    leaky_relu: ({ slope }) => inPlace((x) => (x > 0 ? x : slope * x))(),

    linear({ inputs, outputs, weight, bias }) {
      const w = halves(weight), b = singles(bias), y = new Float32Array(outputs);
      return (x) => {
        for (let k = 0; k < outputs; k++) y[k] = b[k] + dot(w, k * inputs, x);
        return y;
      };
    },

    scale({ outputs, each, weight, bias }) {
      const w = halves(weight), b = singles(bias);
      return (x) => {
        for (let k = 0; k < outputs * each; k++) x[k] = x[k] * w[(k / each) | 0] + b[(k / each) | 0];
        return x;
      };
    },

    convolution(layer) {
      const { inputs, outputs, size, into } = layer;
      const w = halves(layer.weight), b = singles(layer.bias);
      const before = size[0] * size[1], after = into[0] * into[1];
      const places = positions(layer, into, size), area = layer.kernel[0] * layer.kernel[1];
      const patch = new Float32Array(inputs * area), y = new Float32Array(outputs * after);
      return (x) => {
        for (let p = 0; p < after; p++) {
          for (let c = 0, k = 0; c < inputs; c++)
            for (let tap = 0; tap < area; tap++, k++) patch[k] = places[p][tap] < 0 ? 0 : x[c * before + places[p][tap]];
          for (let o = 0; o < outputs; o++) y[o * after + p] = b[o] + dot(w, o * patch.length, patch);
        }
        return y;
      };
    },

    /* Each position adds its kernels, weighted by its channels: those that are not zero, as after a ReLU, by fours. */
    transposed(layer) {
      const { inputs, outputs, size, into } = layer;
      const w = halves(layer.weight), bias = singles(layer.bias);
      const before = size[0] * size[1], after = into[0] * into[1];
      const places = positions(layer, size, into), area = layer.kernel[0] * layer.kernel[1];
      const sum = new Float32Array(outputs * area), y = new Float32Array(outputs * after);
      const starts = new Int32Array(inputs + 3), values = new Float32Array(inputs + 3);
      return (x) => {
        for (let o = 0; o < outputs; o++) y.fill(bias[o], o * after, (o + 1) * after);
        for (let p = 0; p < before; p++) {
          let n = 0;
          for (let c = 0; c < inputs; c++) {
            const value = x[c * before + p];
            if (value !== 0) {
              starts[n] = c * sum.length;
              values[n++] = value;
            }
          }
          starts.fill(0, n);
          values.fill(0, n);
          sum.fill(0);
          for (let m = 0; m < n; m += 4) {
            const i = starts[m], j = starts[m + 1], k = starts[m + 2], l = starts[m + 3];
            const a = values[m], b = values[m + 1], c = values[m + 2], d = values[m + 3];
            for (let s = 0; s < sum.length; s++)
              sum[s] += a * w[i + s] + b * w[j + s] + c * w[k + s] + d * w[l + s];
          }
          for (let tap = 0; tap < area; tap++) {
            const place = places[p][tap];
            if (place >= 0) for (let o = 0; o < outputs; o++) y[o * after + place] += sum[o * area + tap];
          }
        }
        return y;
      };
    },
  };

  /* Of 1/2 + (coth u - 1/u) / 2 with u = x / 2, whose closed form is 0/0 at 0. */
  function continuousBernoulli(x) {
    if (Math.abs(x) < 1) {
      const u = x / 2, s = u * u;
      return 0.5 + u * (1 / 6 + s * (-1 / 90 + s * (1 / 945 + s * (-1 / 9450 + s / 93555))));
    }
    const size = Math.abs(x), above = -1 / Math.expm1(-size) - 1 / size - 0.5;
    return 0.5 + (x > 0 ? above : -above);
  }

  const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

  /* Outputs are log-weights, unless there is one component, then centres, then raw scales. */
  const discretizedLogistic = (n) => (x, values) => {
    const y = new Float32Array(values), first = n > 1 ? n : 0;
    for (let k = 0; k < values; k++) {
      let largest = -Infinity, total = 0, mean = 0;
      for (let j = 0; j < first; j++) largest = Math.max(largest, x[j * values + k]);
      for (let j = 0; j < n; j++) {
        const weight = first ? Math.exp(x[j * values + k] - largest) : 1;
        const centre = x[(first + j) * values + k], scale = 1 / 2000 + softplus(x[(first + n + j) * values + k]);
        let sum = 0;
        for (let level = 0; level < 255; level++) sum += sigmoid((centre - (level + 0.5) / 255) / scale);
        mean += weight * sum;
        total += weight;
      }
      y[k] = mean / total / 255;
    }
    return y;
  };

  const firstOutput = (change) => (x, values) => x.slice(0, values).map(change);

  const MEANS = {
    identity: () => firstOutput((x) => x),
    sigmoid: () => firstOutput(sigmoid),
    continuous_bernoulli: () => firstOutput(continuousBernoulli),
    discretized_logistic: ({ n_mixtures }) => discretizedLogistic(n_mixtures),
  };

  latentmix.decoder = ({ latent_dim, shape, mean, layers }) => {
    const network = layers.map((layer) => LAYERS[layer.kind](layer));
    const values = shape.reduce((product, side) => product * side, 1), finish = MEANS[mean.kind](mean);
    return {
      latentDim: latent_dim,
      shape,
      decode: (z) => finish(network.reduce((x, layer) => layer(x), Float32Array.from(z)), values),
    };
  };
})();
