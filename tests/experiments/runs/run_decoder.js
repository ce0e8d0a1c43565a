// Reads {script, decoder, latents} as JSON, and writes {images, seconds}: the decoder's values at each latent.
const { script, decoder, latents } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
require(script);
const network = latentmix.decoder(decoder);
const began = performance.now();
const images = latents.map((z) => Array.from(network.decode(z)));
process.stdout.write(JSON.stringify({ images, seconds: (performance.now() - began) / 1000 / latents.length }));
