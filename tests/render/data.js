// From a dashboard and a Prometheus to Grafana's data frames: variables, intervals, queries, annotations. All of it ours.

import { dateMath, dateTime, rangeUtil, renderLegendFormat, FieldType } from '@grafana/data';

// What is drawn. Anything else that a dashboard says is an error: left out silently, it would look tested.
const leaf = null;
const all = (names, below = leaf) => Object.fromEntries(names.split(' ').map((name) => [name, below]));
const calcs = { reduceOptions: all('calcs fields values limit') };
export const OPTIONS = {
  timeseries: { legend: all('showLegend displayMode placement calcs sortBy sortDesc width'), tooltip: leaf },
  stat: { ...calcs, ...all('colorMode graphMode justifyMode orientation textMode wideLayout') },
  bargauge: { ...calcs, ...all('displayMode valueMode showUnfilled orientation') },
  table: { ...all('showHeader cellHeight sortBy'), footer: all('show reducer fields') },
};
const STANDARD = all('unit decimals min max displayName noValue color thresholds mappings links fieldMinMax');
const CUSTOM = {
  timeseries: all(
    'drawStyle lineInterpolation barWidthFactor lineWidth lineStyle fillOpacity spanNulls showPoints stacking ' +
      'thresholdsStyle axisSoftMin axisSoftMax',
  ),
  table: all('align width cellOptions filterable'),
  stat: {},
  bargauge: {},
};
const PANEL = all(
  'id type title description gridPos datasource targets options fieldConfig transformations links maxDataPoints ' +
    'repeat repeatDirection maxPerRow',
);
const TARGET = all('refId expr legendFormat format instant range datasource editorMode');

export const properties = (type) => ({
  ...STANDARD,
  ...Object.fromEntries(Object.keys(CUSTOM[type]).map((name) => [`custom.${name}`, leaf])),
});

const strangers = (value, known, path) =>
  Object.entries(value ?? {}).flatMap(([key, below]) =>
    !(key in known) ? [`${path}${key}`] : known[key] && below ? strangers(below, known[key], `${path}${key}.`) : [],
  );

export function undrawn(panel) {
  const { type } = panel;
  if (!OPTIONS[type]) return [`panel type ${type}`];
  const { defaults = {}, overrides = [] } = panel.fieldConfig ?? {};
  return [
    ...strangers(panel, PANEL, ''),
    ...(['h', undefined].includes(panel.repeatDirection) ? [] : ['repeatDirection v']),
    ...strangers(panel.options, OPTIONS[type], 'options.'),
    ...strangers(defaults, { ...STANDARD, custom: CUSTOM[type] }, 'fieldConfig.defaults.'),
    ...overrides.flatMap((rule) => rule.properties.map((p) => p.id).filter((id) => !(id in properties(type)))),
    ...(panel.targets ?? []).flatMap((target) => [
      ...strangers(target, TARGET, 'target.'),
      ...(target.instant && target.range ? ['target.instant with target.range'] : []),
      ...(target.format === 'heatmap' ? ['target.format heatmap'] : []),
    ]),
  ];
}

export async function ask(path, parameters) {
  const body = new URLSearchParams(parameters);
  // Queries may be too long for an address; values of labels are to be had by GET only.
  const reply = await (parameters.query
    ? fetch(`/api/v1/${path}`, { method: 'POST', body })
    : fetch(`/api/v1/${path}?${body}`));
  const answer = await reply.json();
  if (answer.status !== 'success') throw new Error(`Prometheus: ${answer.error}: ${JSON.stringify(parameters)}`);
  return answer.data;
}

export function timeRange(raw) {
  const moment = (text, up) =>
    /^\d+(\.\d+)?$/.test(text) ? dateTime(text * 1000) : dateMath.toDateTime(text, { roundUp: up, timezone: 'utc' });
  const [from, to] = [moment(raw.from, false), moment(raw.to, true)];
  if (!from?.isValid() || !to?.isValid()) throw new Error(`not a time range: ${JSON.stringify(raw)}`);
  return { from, to, raw };
}

// --- Variables ---------------------------------------------------------------

const ALL = '$__all';
const span = (range) => Math.round((range.to - range.from) / 1000);
const ranges = (range) => ({ __range: () => `${span(range)}s` });
const escape = (value) => value.replace(/\\/g, '\\\\\\\\').replace(/[$^*{}[\]'+?.()|]/g, '\\\\$&');

async function found(query, range) {
  const [, selector, label] = /^label_values\((?:(.+),)?\s*(\w+)\)$/s.exec(query) ?? [];
  const [, expression] = /^query_result\((.+)\)\s*$/s.exec(query) ?? [];
  if (label) {
    const parameters = { start: range.from.unix(), end: range.to.unix(), ...(selector && { 'match[]': selector }) };
    return ask(`label/${label}/values`, parameters);
  }
  if (!expression) throw new Error(`variable query ${query} is not drawn`);
  const { result } = await ask('query', { query: expression, time: range.to.valueOf() / 1000 });
  return result.map(
    ({ metric: { __name__: name = '', ...labels }, value: [time, value] }) =>
      `${name}{${Object.entries(labels)
        .map(([label, value]) => `${label}="${value}"`)
        .join(',')}} ${value} ${time * 1000}`,
  );
}

async function options(variable, replace, range) {
  if (variable.type === 'datasource') return ['prometheus'];
  if (variable.type !== 'query') throw new Error(`variable type ${variable.type} is not drawn`);
  const values = await found(replace(variable.query), range);
  const [, regex, flags] = /^\/(.*)\/(\w*)$/s.exec(variable.regex || '/(?:)/') ?? [, variable.regex, ''];
  const kept = values
    .map((value) => new RegExp(regex, flags).exec(value))
    .filter(Boolean)
    .map((match) => match[1] ?? match.input);
  if (![0, 1].includes(variable.sort)) throw new Error(`variable.sort ${variable.sort} is not drawn`);
  return variable.sort ? [...new Set(kept)].sort() : [...new Set(kept)];
}

// For a repeated panel: one value in place of all.
export function written(variable, many) {
  const pattern = variable.multi || variable.includeAll ? many.map(escape) : many;
  return { query: pattern.length > 1 ? `(${pattern.join('|')})` : (pattern[0] ?? ''), text: many.join(', ') };
}

// Chosen values, each with what it is in a query and in an address; in the order of the dashboard, as they use each other.
export async function variables(dashboard, chosen, range) {
  const values = {};
  for (const variable of dashboard.templating?.list ?? []) {
    const all = await options(variable, (text) => interpolate(text, values, ranges(range)), range);
    const offered = variable.includeAll ? [ALL, ...all] : all;
    const current = [variable.current?.value ?? []].flat().filter((value) => offered.includes(value));
    const value = chosen[variable.name] ?? (current.length ? current : offered.slice(0, 1));
    const isAll = value.includes(ALL);
    const many = isAll ? all : value;
    values[variable.name] = {
      variable,
      options: all,
      many,
      shown: isAll ? 'All' : value.join(' + '),
      ...written(variable, many),
      ...(isAll && variable.allValue && { query: variable.allValue }),
      address: value.map((one) => `var-${variable.name}=${encodeURIComponent(one)}`).join('&'),
    };
  }
  for (const name of Object.keys(chosen)) if (!values[name]) throw new Error(`no variable ${name}`);
  return values;
}

const REFERENCE = /\$\{(\w+)(?:\.([^}:]+))?(?::(\w+))?\}|\$(\w+)/g;

export function interpolate(template, values, extra = {}) {
  return template.replace(REFERENCE, (whole, braced, path, format, plain) => {
    const name = braced ?? plain;
    if (name in extra) return extra[name](path, format);
    if (!values[name]) throw new Error(`nothing is known of ${whole}`);
    if (format === 'queryparam') return values[name].address;
    if (format && !['regex', 'text', 'raw'].includes(format)) throw new Error(`format ${whole} is not drawn`);
    return format === 'text' ? values[name].text : values[name].query;
  });
}

// --- Queries -----------------------------------------------------------------

const seconds = (interval) => rangeUtil.intervalToMs(interval) / 1000;

// As Grafana's Prometheus data source does: steps are whole multiples, ranges hold at least four scrapes.
function intervals(panel, width, range, scrape) {
  const points = panel.maxDataPoints || Math.floor(width);
  const step = Math.max(rangeUtil.calculateInterval(range, points, scrape).intervalMs / 1000, span(range) / 11000);
  return { step, rate: Math.max(step + seconds(scrape), 4 * seconds(scrape)) };
}

const named = ({ step, rate }, range) => ({
  ...ranges(range),
  __interval: () => `${step}s`,
  __rate_interval: () => `${rate}s`,
});

function legend(metric, expression, format) {
  const { __name__: name = '', ...labels } = metric;
  const pairs = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
  if (!format) return name || pairs.length ? `${name}${pairs.length ? `{${pairs.join(', ')}}` : ''}` : expression;
  return format === '__auto' ? (pairs.length ? undefined : name || expression) : renderLegendFormat(format, metric);
}

function seriesFrame(target, { metric, values }, step) {
  const displayNameFromDS = legend(metric, target.expr, target.legendFormat);
  return {
    refId: target.refId,
    name: displayNameFromDS,
    length: values.length,
    fields: [
      {
        name: 'Time',
        type: FieldType.time,
        config: { interval: step * 1000 },
        values: values.map(([time]) => time * 1000),
      },
      {
        name: 'Value',
        type: FieldType.number,
        config: { displayNameFromDS },
        labels: metric,
        values: values.map(([, value]) => Number(value.replace('Inf', 'Infinity'))),
      },
    ],
  };
}

function tableFrame(target, frames, only) {
  const labels = [...new Set(frames.flatMap((frame) => Object.keys(frame.fields[1].labels).sort()))];
  const rows = frames.flatMap((frame) =>
    frame.fields[0].values.map((time, i) => ({
      time,
      value: frame.fields[1].values[i],
      labels: frame.fields[1].labels,
    })),
  );
  return {
    refId: target.refId,
    length: rows.length,
    fields: [
      { name: 'Time', type: FieldType.time, config: {}, values: rows.map((row) => row.time) },
      ...labels.map((label) => ({
        name: label,
        type: FieldType.string,
        config: { filterable: true },
        values: rows.map((row) => row.labels[label] ?? ''),
      })),
      {
        name: only ? 'Value' : `Value #${target.refId}`,
        type: FieldType.number,
        config: {},
        values: rows.map((row) => row.value),
      },
    ],
  };
}

export async function query(panel, width, range, scrape, values) {
  const targets = panel.targets ?? [];
  const tables = targets.filter((target) => target.format === 'table').length;
  const answers = await Promise.all(
    targets.map(async (target) => {
      const times = intervals(panel, width, range, scrape);
      const expression = interpolate(target.expr, values, named(times, range));
      const aligned = (moment) => Math.floor(moment.valueOf() / 1000 / times.step) * times.step;
      const parameters = target.instant
        ? { query: expression, time: range.to.valueOf() / 1000 }
        : { query: expression, start: aligned(range.from), end: aligned(range.to), step: times.step };
      const { result } = await ask(target.instant ? 'query' : 'query_range', parameters);
      const series = result.map(({ metric, value, values }) => ({ metric, values: values ?? [value] }));
      const found = series.map((one) => seriesFrame(target, one, times.step));
      return {
        query: { refId: target.refId, ...parameters },
        frames: target.format === 'table' ? [tableFrame(target, found, tables === 1)] : found,
      };
    }),
  );
  return { frames: answers.flatMap((one) => one.frames), queries: answers.map((one) => one.query) };
}

// --- Annotations: values above 0, joined to regions where they follow each other within a step ----------------

export async function annotations(dashboard, range, values) {
  const lists = await Promise.all(
    (dashboard.annotations?.list ?? [])
      .filter((one) => one.enable && !one.builtIn)
      .map(async (annotation) => {
        const step = seconds(interpolate(annotation.step || '60s', values));
        const times = { step, rate: 4 * step };
        const aligned = (moment) => Math.floor(moment.unix() / step) * step;
        const { result } = await ask('query_range', {
          query: interpolate(annotation.expr, values, named(times, range)),
          start: aligned(range.from),
          end: aligned(range.to),
          step,
        });
        return result.flatMap(({ metric, values: points }) => {
          const moments = points
            .map(([time, value]) => (annotation.useValueForTime ? [Number(value), 1] : [time * 1000, Number(value)]))
            .filter(([, value]) => value > 0);
          return moments.reduce((regions, [time]) => {
            const last = regions.at(-1);
            if (last && last.end + step * 1000 >= time) last.end = time;
            else
              regions.push({
                time,
                end: time,
                annotation,
                color: annotation.iconColor,
                title: renderLegendFormat(annotation.titleFormat || '', metric),
                text: renderLegendFormat(annotation.textFormat || '', metric),
              });
            return regions;
          }, []);
        });
      }),
  );
  const inside = (one) => one.end >= range.from.valueOf() && one.time <= range.to.valueOf();
  return lists.flat().filter(inside);
}
