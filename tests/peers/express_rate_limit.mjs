// Serve "hello" by express behind express-rate-limit, with its fields of draft 8.
// Arguments: the folder of the npm packages, the port, calls, the window in ms.
import { pathToFileURL } from "node:url";

const [folder, port, limit, windowMs] = process.argv.slice(2);
const load = (file) => import(pathToFileURL(`${folder}/node_modules/${file}`));
const { default: express } = await load("express/index.js");
const { rateLimit } = await load("express-rate-limit/dist/index.mjs");

const app = express();
app.use(
  rateLimit({
    windowMs: Number(windowMs),
    limit: Number(limit),
    standardHeaders: "draft-8",
    legacyHeaders: false,
  }),
);
app.get("/", (request, response) => response.send("hello"));
app.listen(Number(port), "127.0.0.1");
