// Serves the page with its dashboard on loopback, hands its questions on to Prometheus, and looks at it with Chromium.

const fs = require('fs'),
  http = require('http'),
  os = require('os'),
  path = require('path');
const { parseArgs } = require('util');
const { build } = require('esbuild');
const { chromium } = require('playwright-core');

const modules = process.env.NODE_PATH;
const WIDTH = 1600; // of the picture

// The fonts that Grafana's style sheet asks for are not in its packages.
const FONTS = {
  'Inter-Regular.woff2': 'inter/files/inter-latin-400-normal.woff2',
  'Inter-Medium.woff2': 'inter/files/inter-latin-500-normal.woff2',
  'L0xTDF4xlVMF-BfR8bXMIhJHg45mwgGEFl0_3vrtSM1J-gEPT5Ese6hmHSh0mQ.woff2':
    'roboto-mono/files/roboto-mono-latin-400-normal.woff2',
};

async function bundle() {
  const out = path.join(path.dirname(modules), 'bundle');
  const sources = ['page.jsx', 'data.js', 'drive.cjs', 'package-lock.json'].map((name) => path.join(__dirname, name));
  const stamp = sources.map((name) => fs.readFileSync(name)).join('');
  if (fs.existsSync(path.join(out, 'stamp')) && fs.readFileSync(path.join(out, 'stamp'), 'utf8') === stamp) return out;
  // The modules of Grafana's that are built for import end in "element type is invalid" (React error 130).
  const alias = Object.fromEntries(
    ['data', 'schema', 'ui'].map((name) => [`@grafana/${name}`, path.join(modules, `@grafana/${name}/dist/cjs/index.cjs`)]),
  );
  await build({
    entryPoints: [path.join(__dirname, 'page.jsx')],
    outfile: path.join(out, 'page.js'),
    bundle: true,
    jsx: 'automatic',
    nodePaths: [modules],
    alias,
    logLevel: 'error',
    define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
    loader: Object.fromEntries(['.ttf', '.woff', '.woff2', '.svg', '.png'].map((type) => [type, 'dataurl'])),
  });
  fs.writeFileSync(path.join(out, 'stamp'), stamp);
  return out;
}

function serve(out, job, prometheus) {
  const page =
    '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><link rel="stylesheet" href="/page.css">' +
    '<body><div id="page"></div><script src="/page.js"></script>';
  const types = { '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' };
  const send = (answer, file) =>
    fs.readFile(file, (error, body) =>
      answer.writeHead(error ? 404 : 200, { 'Content-Type': types[path.extname(file)] ?? 'text/plain' }).end(error ? '' : body),
    );
  const server = http.createServer((request, answer) => {
    const { pathname } = new URL(request.url, 'http://localhost');
    if (pathname.startsWith('/api/')) {
      const { method, headers, url } = request;
      const onward = http.request(new URL(url, prometheus), { method, headers }, (reply) => {
        answer.writeHead(reply.statusCode, reply.headers);
        reply.pipe(answer);
      });
      onward.on('error', (error) => answer.writeHead(502).end(JSON.stringify({ status: 'error', error: error.message })));
      request.pipe(onward);
    } else if (pathname === '/') answer.writeHead(200, { 'Content-Type': 'text/html' }).end(page);
    else if (pathname === '/job.json') answer.end(JSON.stringify(job));
    else if (pathname.startsWith('/public/fonts/'))
      send(answer, path.join(modules, '@fontsource', FONTS[path.basename(pathname)] ?? 'none'));
    else if (pathname.startsWith('/public/')) send(answer, path.join(modules, '@grafana/ui/dist', path.normalize(pathname)));
    else send(answer, path.join(out, path.basename(pathname)));
  });
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)));
}

async function main() {
  const single = Object.fromEntries(
    ['prometheus', 'from', 'to', 'theme', 'out', 'scrape-interval'].map((name) => [name, { type: 'string' }]),
  );
  const {
    values: options,
    positionals: [file],
  } = parseArgs({
    allowPositionals: true,
    options: { ...single, var: { type: 'string', multiple: true }, empty: { type: 'string', multiple: true } },
  });
  const dashboard = JSON.parse(fs.readFileSync(file));
  const chosen = {};
  for (const one of options.var ?? []) {
    const [, name, value] = /^(\w+)=(.*)$/s.exec(one);
    (chosen[name] ??= []).push(value);
  }
  const job = {
    dashboard,
    chosen,
    from: options.from,
    to: options.to,
    scrape: options['scrape-interval'] ?? '15s',
    mode: options.theme ?? 'light',
    width: WIDTH,
  };
  const server = await serve(await bundle(), job, options.prometheus);
  const origin = `http://127.0.0.1:${server.address().port}`;
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'render-'));
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: '/usr/bin/chromium',
    viewport: { width: WIDTH, height: 900 },
    timezoneId: 'UTC',
    locale: 'en-US',
    colorScheme: job.mode,
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
    ],
  });
  const complaints = [];
  let report;
  try {
    const page = browser.pages()[0];
    page.setDefaultTimeout(120000);
    page.on(
      'console',
      (message) => message.type() === 'error' && complaints.push(`${message.text()} ${message.location().url}`),
    );
    page.on('pageerror', (error) => complaints.push(error.message));
    page.on(
      'request',
      (request) =>
        request.url().startsWith(origin) || request.url().startsWith('data:') || complaints.push(`asked for ${request.url()}`),
    );
    await page.goto(`${origin}/`);
    await page.waitForFunction(() => window.report);
    await page.waitForLoadState('networkidle');
    report = await page.evaluate(() => window.report);
    const height = await page.evaluate(() => Math.ceil(document.getElementById('page').getBoundingClientRect().height));
    await page.setViewportSize({ width: WIDTH, height });
    if (options.out && !report.error) await page.screenshot({ path: options.out });
  } finally {
    await browser.close();
    server.close();
    fs.rmSync(profile, { recursive: true });
  }
  console.log(JSON.stringify({ ...report, complaints }, null, 1));
  const wrong = ({ title, state, error, ink, blank }) => {
    const empty = (options.empty ?? []).includes(title);
    if (state === 'error') return error;
    if (state === 'no data' && !empty) return 'no data';
    if (state === 'done' && empty) return 'has data';
    return ink === 0 && !blank ? 'nothing is to be seen' : undefined;
  };
  const failed = report.panels.filter(wrong).map((panel) => `${panel.title}: ${wrong(panel)}`);
  for (const one of [...failed, ...complaints, report.error].filter(Boolean)) console.error(one);
  process.exitCode = failed.length || complaints.length || report.error ? 1 : 0;
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
