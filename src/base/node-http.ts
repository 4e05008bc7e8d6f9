/**
 * What a server needs of Node's HTTP, and no more. An import of node:http as a module reads all of its properties, and so loads the one
 * behind `WebSocket`: a whole HTTP client that nothing here asks for. With the client of Firecracker's API, which waits for a
 * Firecracker, that was 22 MB of an idle hatchd, and 2 MB of each further thread of its proxy.
 */
export const { createServer, maxHeaderSize, ServerResponse, STATUS_CODES } =
  process.getBuiltinModule('node:http');

/** node:https, which is loaded where there is a certificate. */
export const httpsModule = () => process.getBuiltinModule('node:https');

/** node:http2, likewise. */
export const http2Module = () => process.getBuiltinModule('node:http2');
