/**
 * What a server needs of Node's HTTP, and no more, for each thread of hatchd has its own. An import of node:http as a module reads
 * all of its properties, and so loads the one behind `WebSocket`: a whole HTTP client, 14 MB that nothing here asks for.
 */
export const { createServer, maxHeaderSize, ServerResponse, STATUS_CODES } =
  process.getBuiltinModule('node:http');

/** node:https, which is loaded where there is a certificate: 5 MB. */
export const httpsModule = () => process.getBuiltinModule('node:https');

/** node:http2, likewise: 4 MB. */
export const http2Module = () => process.getBuiltinModule('node:http2');
