/**
 * A server for guests: its page says how many requests it has answered since it was started, and at /ws it speaks WebSocket (RFC 6455)
 * and says back what it hears. It goes on answering for ever at /chunked, /long (of a length it told) and /endless (until the connection
 * ends), answers nothing at /never, and says at /held how many have asked there.
 */
const PROGRAM = `
import base64, hashlib, http.server, itertools, threading, time

numbers = itertools.count(1)
held = []
WITHOUT_END = {
    '/chunked': ('Transfer-Encoding', 'chunked'),
    '/long': ('Content-Length', '1000000000'),
    '/endless': ('Connection', 'close'),
}

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        if self.headers.get('Upgrade', '').lower() == 'websocket':
            return self.speak()
        if self.path in WITHOUT_END:
            return self.go_on(*WITHOUT_END[self.path])
        if self.path == '/never':
            return self.hold()
        page = (str(len(held)) if self.path == '/held' else f'<h1>request {next(numbers)}</h1>').encode()
        self.send_response(200)
        self.send_header('Content-Type', 'text/html')
        self.send_header('Content-Length', str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    do_PUT = do_GET

    def go_on(self, name, value):
        self.send_response(200)
        self.send_header(name, value)
        self.end_headers()
        while True:
            self.wfile.write(b'5\\r\\nmore\\n\\r\\n' if self.path == '/chunked' else b'more\\n')
            time.sleep(0.05)

    def hold(self):
        held.append(self.path)
        threading.Event().wait()

    def speak(self):
        key = self.headers['Sec-WebSocket-Key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
        self.send_response(101)
        self.send_header('Upgrade', 'websocket')
        self.send_header('Connection', 'Upgrade')
        self.send_header('Sec-WebSocket-Accept', base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True
        while True:
            head = self.rfile.read(2)
            # Anything but a short text ends it.
            if len(head) < 2 or head[0] != 0x81:
                return
            mask = self.rfile.read(4)
            heard = self.rfile.read(head[1] & 0x7f)
            said = bytes(byte ^ mask[i % 4] for i, byte in enumerate(heard))
            self.wfile.write(bytes([0x81, len(said)]) + said)

class Server(http.server.ThreadingHTTPServer):
    # Of more than this the kernel drops connections that come at once, and theirs come by the fifty.
    request_queue_size = 128

Server(('', 8000), Handler).serve_forever()
`;

/** The command that has a guest serve it at its port 8000. */
export const START_SERVING = [
  `echo ${Buffer.from(PROGRAM).toString('base64')} | base64 -d > /root/page.py`,
  'systemd-run --unit=page python3 /root/page.py',
].join(' && ');
