// Stands in for a Prometheus: what a gateway asks of it gets a wave, with a gap in which nobody was there to read.

import { createServer } from 'node:http';

/** Where the gateway looks for one, if it does. */
export const PORT = Number(process.env.WHARF_PROMETHEUS_PORT) || null;

/** Answers from now on; gives how to end that. */
export async function start() {
  const server = createServer((request, response) => {
    const asked = new URL(request.url, 'http://localhost').searchParams;
    const [start_, end, step] = ['start', 'end', 'step'].map((name) => Number(asked.get(name)));
    const values = [];
    for (let at = start_; at <= end; at += step) {
      const share = (at - start_) / (end - start_);
      if (share < 0.3 || share > 0.4) values.push([at, height(asked.get('query'), share).toFixed(3)]);
    }
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ status: 'success', data: { resultType: 'matrix', result: [{ metric: {}, values }] } }));
  });
  await new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(PORT, '127.0.0.1', resolve);
  });
  return () => new Promise((resolve) => {
    server.close(resolve);
    server.closeAllConnections();
  });
}

/** How high the wave of a query is. */
function height(query, share) {
  const wave = 1 + Math.sin(share * 20);
  if (query.includes('histogram_quantile')) return 80 + 40 * wave;
  if (query.includes('endpoints')) return 1 + Math.round(wave / 2);
  return (query.includes('tokens') ? 400 : 6) * wave;
}
