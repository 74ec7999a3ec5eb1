// A stand-in for the service's own serving of the page, for work on the page alone: the built files from this folder, all else from a running
// service. It is no part of the product.
//
//   node test/proxy.mjs 127.0.0.1:18080 unix:/run/qhost/api.sock
//   node test/proxy.mjs 127.0.0.1:18443 https://127.0.0.1:8443 cert.pem key.pem

import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import http from "node:http";
import https from "node:https";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const [, , listen = "127.0.0.1:18080", upstream = "unix:/run/qhost/api.sock", cert, key] = process.argv;
const built = fileURLToPath(new URL("../built/", import.meta.url));
const policy =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; " +
  "form-action 'none'; base-uri 'none'; frame-ancestors 'none'";
const types = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };

function onward(request) {
  const { method, headers, url: path } = request;
  if (upstream.startsWith("unix:")) return http.request({ socketPath: upstream.slice(5), method, path, headers });
  const { hostname, port } = new URL(upstream);
  return https.request({ hostname, port, method, path, headers, rejectUnauthorized: false });
}

async function serve(request, response) {
  const { pathname } = new URL(request.url, "http://page");
  if (pathname === "/" || pathname.startsWith("/assets/")) {
    const file = join(built, normalize(pathname === "/" ? "index.html" : pathname));
    try {
      const body = await readFile(file);
      const caching = pathname === "/" ? "no-cache" : "public, max-age=31536000, immutable";
      response.writeHead(200, {
        "Content-Type": types[extname(file)] ?? "application/octet-stream",
        "Content-Security-Policy": policy,
        "Cache-Control": caching,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
      });
      response.end(body);
    } catch {
      response.writeHead(404).end();
    }
    return;
  }
  const up = onward(request);
  up.on("response", (answer) => {
    response.writeHead(answer.statusCode, answer.headers);
    answer.pipe(response);
  });
  up.on("error", () => (response.headersSent ? response.destroy() : response.writeHead(502).end()));
  response.on("close", () => up.destroy());
  request.pipe(up);
}

function upgrade(request, socket, head) {
  const up = onward(request);
  const fields = (headers) =>
    Object.entries(headers)
      .map(([name, value]) => `${name}: ${value}\r\n`)
      .join("");
  up.on("upgrade", (answer, above, early) => {
    socket.write(`HTTP/1.1 101 Switching Protocols\r\n${fields(answer.headers)}\r\n`);
    socket.write(early);
    above.write(head);
    socket.pipe(above).pipe(socket);
    for (const [one, other] of [
      [socket, above],
      [above, socket],
    ]) {
      one.on("error", () => other.destroy());
      one.on("close", () => other.destroy());
    }
  });
  up.on("response", (answer) => {
    socket.write(`HTTP/1.1 ${answer.statusCode} ${answer.statusMessage}\r\n${fields(answer.headers)}\r\n`);
    answer.pipe(socket);
  });
  up.on("error", () => socket.destroy());
  up.end();
}

const server = cert
  ? https.createServer({ cert: readFileSync(cert), key: readFileSync(key) }, (...of) => void serve(...of))
  : http.createServer((...of) => void serve(...of));
server.on("upgrade", upgrade);
const [host, port] = listen.split(":");
server.listen(Number(port), host, () => console.log(`serving   ${cert ? "https" : "http"}://${listen}/`));
