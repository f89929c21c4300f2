// Ask a protected resource by oauth4webapi and print what it makes of the answers.
// Arguments: the folder of the npm packages, the resource's identifier.
import { pathToFileURL } from "node:url";

const [folder, resource] = process.argv.slice(2);
const entry = `${folder}/node_modules/oauth4webapi/build/index.js`;
const oauth = await import(pathToFileURL(entry));
const insecure = { [oauth.allowInsecureRequests]: true }; // http, on the loopback
const url = new URL(resource);
const told = {};

const found = await oauth.resourceDiscoveryRequest(url, insecure);
told.metadata = await oauth.processResourceDiscoveryResponse(url, found);

const ask = async (token, options = {}) => {
  const all = { ...insecure, ...options };
  const target = new URL(`${resource}/items?page=2`);
  try {
    const response = await oauth.protectedResourceRequest(
      token, "GET", target, undefined, undefined, all);
    return { status: response.status, body: await response.json() };
  } catch (error) {
    if (options.DPoP && oauth.isDPoPNonceError(error)) return ask(token, options);
    return { status: error.status, challenges: error.cause };
  }
};
told.invalid = await ask("forged");
told.poor = await ask("poor");
told.good = await ask("good");

const keys = await oauth.generateKeyPair("ES256");
const DPoP = oauth.DPoP({ client_id: "tool" }, keys);
const bound = await DPoP.calculateThumbprint();
told.bound = await ask(bound, { DPoP });
told.again = await ask(bound, { DPoP });
told.stolen = await ask(bound);
console.log(JSON.stringify(told));
