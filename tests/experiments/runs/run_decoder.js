// Reads {script, decoder, latents} as JSON, and writes the decoder's values at each latent.
const { script, decoder, latents } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
require(script);
const network = latentmix.decoder(decoder);
process.stdout.write(JSON.stringify(latents.map((z) => Array.from(network.decode(z)))));
