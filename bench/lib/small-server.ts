const PORT = 8001;

/**
 * A line that lets a guest serve a page with as little as it takes: no thread, no process, no parsing. So what is left of a first byte is
 * the way to it.
 */
export const SMALL_SERVER = {
  port: PORT,
  start: `systemd-run --unit=small perl -e 'use Socket; socket(S, PF_INET, SOCK_STREAM, 0); bind(S, sockaddr_in(${PORT}, INADDR_ANY)) or die; listen(S, 64); while (accept(C, S)) { sysread(C, $said, 65536); syswrite(C, "HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\nConnection: close\\r\\n\\r\\nhi\\n"); close C }'`,
} as const;
