// Walk a paged collection by Octokit and print its items as one JSON array.
// Arguments: the folder of the npm packages, the origin, the path with its query.
import { pathToFileURL } from "node:url";

const [folder, origin, path] = process.argv.slice(2);
const load = (file) =>
  import(pathToFileURL(`${folder}/node_modules/@octokit/${file}`));
const { Octokit } = await load("core/dist-src/index.js");
const { paginateRest } = await load("plugin-paginate-rest/dist-bundle/index.js");

const client = new (Octokit.plugin(paginateRest))({
  baseUrl: origin,
  auth: process.env.OCTOKIT_TOKEN,
});
const items = await client.paginate(`GET ${path}`, {}, ({ data }) => data.items);
console.log(JSON.stringify(items));
