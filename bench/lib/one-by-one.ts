import { Pool } from 'undici';

/**
 * `node bench/lib/one-by-one.ts PORT PATH TIMES`: asks one after the other over one connection, with HATCH_API_KEY, and prints the
 * milliseconds each answer took, after some that do not count, as JSON.
 */
const [port = '', path = '', times = ''] = process.argv.slice(2);
const pool = new Pool(`http://127.0.0.1:${port}`, { connections: 1 });
const headers = { authorization: `Bearer ${process.env['HATCH_API_KEY']}` };
const took: number[] = [];
for (let i = -300; i < Number(times); i++) {
  const from = performance.now();
  const answer = await pool.request({ method: 'GET', path, headers });
  await answer.body.text();
  if (answer.statusCode !== 200) throw new Error(`the answer was a ${answer.statusCode}`);
  if (i >= 0) took.push(performance.now() - from);
}
await pool.close();
console.log(JSON.stringify(took));
