// Serve OAuth 2.0 and OpenID Connect by oidc-provider, with all that it keeps in memory.
// Arguments: the folder of the npm package, the port, and as JSON
// {clients, resources: {resource: alg}, nonceFor: [client_id], scopes, ttl}.
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

const [folder, port, json] = process.argv.slice(2);
const { clients, resources, nonceFor, scopes, ttl } = JSON.parse(json);
const file = `${folder}/node_modules/oidc-provider/lib/index.js`;
const { Provider } = await import(pathToFileURL(file));

const key = (alg, type, options) => ({
  ...generateKeyPairSync(type, options).privateKey.export({ format: "jwk" }),
  alg,
  kid: alg.toLowerCase(),
  use: "sig",
});
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients,
  scopes,
  jwks: {
    keys: [
      key("RS256", "rsa", { modulusLength: 2048 }),
      key("ES256", "ec", { namedCurve: "P-256" }),
      key("Ed25519", "ed25519"),
    ],
  },
  cookies: { keys: [randomBytes(32).toString("hex")] },
  pkce: { required: () => true },
  rotateRefreshToken: true, // and one that was used before ends its family
  issueRefreshToken: (_, client) => client.grantTypeAllowed("refresh_token"),
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  features: {
    devInteractions: { enabled: true }, // takes any login
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true },
    pushedAuthorizationRequests: { enabled: true },
    dPoP: {
      enabled: true,
      nonceSecret: randomBytes(32),
      requireNonce: (context) => nonceFor.includes(context.oidc.client?.clientId),
    },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined, // whoever names none gets an opaque token
      useGrantedResource: () => true,
      getResourceServerInfo: (_, resource) => ({
        scope: scopes.join(" "),
        audience: resource,
        accessTokenFormat: "jwt",
        accessTokenTTL: ttl,
        jwt: { sign: { alg: resources[resource] } },
      }),
    },
  },
  ttl: {
    AccessToken: ttl,
    ClientCredentials: ttl,
    AuthorizationCode: 60,
    DeviceCode: 300,
    Grant: 3600,
    IdToken: 300,
    Interaction: 300,
    RefreshToken: 3600,
    Session: 3600,
  },
});

const counts = { token: 0 };
const answer = provider.callback();
const server = createServer(async (request, response) => {
  if (request.url === "/_counts") {
    response.end(JSON.stringify(counts));
    return;
  }
  if (request.url.startsWith("/_forget/")) {
    // Revocation ends the whole grant; this ends one access token.
    const token = await provider.AccessToken.find(request.url.slice(9));
    await token.destroy();
    response.end();
    return;
  }
  if (request.url === "/token") counts.token += 1;
  answer(request, response);
});
server.listen(Number(port), "127.0.0.1");

// It dies with its parent, even with one that was killed.
const parent = process.ppid;
setInterval(() => process.ppid === parent || process.exit(), 1000).unref();
