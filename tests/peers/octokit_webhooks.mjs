// Sign and verify by Octokit; JSON in, JSON out. Argument: the folder of npm packages.
// In: a list of { secret, body, signature }. Out: a list of { signed, verified }, where
// `verified` is true, false or the name of what was thrown.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder] = process.argv.slice(2);
const file = `${folder}/node_modules/@octokit/webhooks-methods/dist-node/index.js`;
const { sign, verify } = await import(pathToFileURL(file));

const results = [];
for (const { secret, body, signature } of JSON.parse(readFileSync(0, "utf-8"))) {
  const signed = await sign(secret, body);
  const verified = await verify(secret, body, signature).catch((error) => error.name);
  results.push({ signed, verified });
}
console.log(JSON.stringify(results));
