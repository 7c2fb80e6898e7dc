// Serves the numbers of open disks to Prometheus: node examples/prometheus.mjs disk.qcow2 [PORT]
import { createServer } from 'node:http';
import { latencyBounds, open } from 'qcow2';

/** A label's value, as the text format wants it. */
const escapeLabel = (text) => text.replace(/\\/g, '\\\\').replace(/"/g, '\\"').replace(/\n/g, '\\n');

/** The numbers of disks by name, in Prometheus' text format. */
export function metrics(disks) {
  const lines = [];
  const series = (name, type, help, samples) => {
    lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...samples);
  };
  const stats = Object.entries(disks).map(([name, disk]) => [`disk="${escapeLabel(name)}"`, disk.stats()]);
  const ofRequests = (name, field) =>
    stats.flatMap(([disk, { requests }]) =>
      Object.entries(requests).map(([kind, request]) => `${name}{${disk},kind="${kind}"} ${request[field]}`),
    );
  const ofCaches = (name, field) =>
    stats.flatMap(([disk, { l2Cache, refcountCache }]) => [
      `${name}{${disk},cache="l2"} ${l2Cache[field]}`,
      `${name}{${disk},cache="refcount"} ${refcountCache[field]}`,
    ]);
  const ofDisks = (name, field) => stats.map(([disk, numbers]) => `${name}{${disk}} ${numbers[field]}`);

  series('qcow2_requests_total', 'counter', 'Requests begun.', ofRequests('qcow2_requests_total', 'count'));
  series(
    'qcow2_request_bytes_total',
    'counter',
    'Bytes asked for.',
    ofRequests('qcow2_request_bytes_total', 'bytes'),
  );
  series(
    'qcow2_requests_failed_total',
    'counter',
    'Requests that failed.',
    ofRequests('qcow2_requests_failed_total', 'failed'),
  );
  series(
    'qcow2_request_seconds',
    'histogram',
    'How long requests took.',
    stats.flatMap(([disk, { requests }]) =>
      Object.entries(requests).flatMap(([kind, { latency }]) => histogram(`${disk},kind="${kind}"`, latency)),
    ),
  );
  series(
    'qcow2_cache_hits_total',
    'counter',
    'Look-ups found in memory.',
    ofCaches('qcow2_cache_hits_total', 'hits'),
  );
  series(
    'qcow2_cache_misses_total',
    'counter',
    'Look-ups read from storage.',
    ofCaches('qcow2_cache_misses_total', 'misses'),
  );
  series('qcow2_cache_bytes', 'gauge', 'Bytes of tables in memory.', ofCaches('qcow2_cache_bytes', 'bytes'));
  series(
    'qcow2_clusters_allocated_total',
    'counter',
    'Host clusters taken.',
    ofDisks('qcow2_clusters_allocated_total', 'allocatedClusters'),
  );
  series(
    'qcow2_clusters_freed_total',
    'counter',
    'Host clusters given back.',
    ofDisks('qcow2_clusters_freed_total', 'freedClusters'),
  );
  return `${lines.join('\n')}\n`;
}

function histogram(labels, { counts, sum }) {
  let total = 0;
  const buckets = counts.map((count, bucket) => {
    total += count;
    return `qcow2_request_seconds_bucket{${labels},le="${latencyBounds[bucket] ?? '+Inf'}"} ${total}`;
  });
  return [
    ...buckets,
    `qcow2_request_seconds_sum{${labels}} ${sum}`,
    `qcow2_request_seconds_count{${labels}} ${total}`,
  ];
}

if (process.argv[1] === import.meta.filename) {
  const [, , path, port = '9464'] = process.argv;
  const disk = await open(path);
  const server = createServer((_request, response) => {
    response.setHeader('Content-Type', 'text/plain; version=0.0.4');
    response.end(metrics({ [path]: disk }));
  });
  server.listen(Number(port), '127.0.0.1', () =>
    console.log(`http://127.0.0.1:${server.address().port}/metrics`),
  );
  process.once('SIGINT', () => server.close(() => disk.close()));
}
