// Draws the dashboard that the server of drive.cjs hands out, and leaves in window.report what was drawn.

import React from 'react';
import { createRoot } from 'react-dom/client';
import { lastValueFrom } from 'rxjs';
import {
  applyFieldOverrides,
  createTheme,
  EventBusSrv,
  formattedValueToString,
  getDisplayValueAlignmentFactors,
  getFieldDisplayName,
  getFieldDisplayValues,
  identityOverrideProcessor as asIs,
  dataLinksOverrideProcessor,
  displayNameOverrideProcessor,
  numberOverrideProcessor,
  thresholdsOverrideProcessor,
  valueMappingsOverrideProcessor,
  locationUtil,
  Registry,
  standardTransformers,
  standardTransformersRegistry,
  ThemeContext,
  transformDataFrame,
} from '@grafana/data';
import {
  BarGauge,
  BigValue,
  ErrorBoundary,
  GlobalStyles,
  Icon,
  LinkButton,
  PanelChrome,
  PanelContextProvider,
  Table,
  TimeSeries,
  VizRepeater,
} from '@grafana/ui';
import { annotations, interpolate, properties, query, timeRange, undrawn, variables, written } from './data.js';

const CELL = 30,
  GAP = 8,
  PADDING = 16;

standardTransformersRegistry.setInit(() =>
  [...new Set(Object.values(standardTransformers))].map((transformation) => ({ ...transformation, transformation })),
);
locationUtil.initialize({
  config: { appSubUrl: '' },
  getVariablesUrlParams: () => ({}),
  getTimeRangeForUrl: () => ({}),
});

// --- Field configuration: Grafana's own overrides, with the defaults of its panels, which it does not publish ---

const DEFAULTS = {
  timeseries: {
    color: { mode: 'palette-classic' },
    custom: {
      drawStyle: 'line',
      lineInterpolation: 'linear',
      barAlignment: 0,
      barWidthFactor: 0.6,
      lineWidth: 1,
      fillOpacity: 0,
      gradientMode: 'none',
      spanNulls: false,
      insertNulls: false,
      showPoints: 'auto',
      pointSize: 5,
      stacking: { mode: 'none', group: 'A' },
      axisPlacement: 'auto',
      axisLabel: '',
      axisColorMode: 'text',
      axisBorderShow: false,
      axisCenteredZero: false,
      scaleDistribution: { type: 'linear' },
      hideFrom: { tooltip: false, viz: false, legend: false },
      thresholdsStyle: { mode: 'off' },
    },
  },
  table: { color: { mode: 'thresholds' }, custom: { align: 'auto', cellOptions: { type: 'auto' }, inspect: false } },
  stat: { color: { mode: 'thresholds' } },
  bargauge: { color: { mode: 'thresholds' } },
};
const OPTION_DEFAULTS = {
  timeseries: { legend: { showLegend: true, displayMode: 'list', placement: 'bottom', calcs: [] } },
  table: { showHeader: true, cellHeight: 'sm' },
  stat: {
    reduceOptions: { values: false, calcs: ['lastNotNull'], fields: '' },
    colorMode: 'value',
    graphMode: 'area',
    justifyMode: 'auto',
    orientation: 'auto',
    textMode: 'auto',
    wideLayout: true,
  },
  bargauge: {
    reduceOptions: { values: false, calcs: ['lastNotNull'], fields: '' },
    displayMode: 'gradient',
    valueMode: 'color',
    showUnfilled: true,
    orientation: 'auto',
    namePlacement: 'auto',
    minVizWidth: 8,
    minVizHeight: 16,
    maxVizHeight: 300,
  },
};
const THRESHOLDS = {
  mode: 'absolute',
  steps: [
    { value: null, color: 'green' },
    { value: 80, color: 'red' },
  ],
};
const PROCESSORS = {
  links: dataLinksOverrideProcessor,
  displayName: displayNameOverrideProcessor,
  decimals: numberOverrideProcessor,
  min: numberOverrideProcessor,
  max: numberOverrideProcessor,
  thresholds: thresholdsOverrideProcessor,
  mappings: valueMappingsOverrideProcessor,
};
const ONLY_NUMBERS = ['min', 'max', 'thresholds'];
const applies = (type, id, field) =>
  field.type === 'number' ||
  !(ONLY_NUMBERS.includes(id) || (type === 'timeseries' && id.startsWith('custom.') && id !== 'custom.hideFrom'));

// JSON has no infinity: the first step of thresholds is null there.
const restored = (thresholds) => ({
  ...thresholds,
  steps: thresholds.steps.map((step) => ({ ...step, value: step.value ?? -Infinity })),
});

function fieldConfig(panel) {
  const { defaults = {}, overrides = [] } = panel.fieldConfig ?? {};
  return {
    defaults: {
      ...DEFAULTS[panel.type],
      ...defaults,
      custom: { ...DEFAULTS[panel.type]?.custom, ...defaults.custom },
      thresholds: restored(defaults.thresholds ?? THRESHOLDS),
    },
    overrides: overrides.map((rule) => ({
      ...rule,
      properties: rule.properties.map((p) => (p.id === 'thresholds' ? { ...p, value: restored(p.value) } : p)),
    })),
  };
}

const registry = (type) =>
  new Registry(() =>
    Object.keys(properties(type)).map((id) => ({
      id,
      name: id,
      path: id.replace('custom.', ''),
      isCustom: id.startsWith('custom.'),
      process: PROCESSORS[id] ?? asIs,
      settings: {},
      shouldApply: (field) => applies(type, id, field),
    })),
  );

// --- Panels ------------------------------------------------------------------

const shownValues = ({ options, frames, config, theme, replace }) =>
  getFieldDisplayValues({
    fieldConfig: config,
    reduceOptions: options.reduceOptions,
    replaceVariables: replace,
    theme,
    data: frames,
    timeZone: 'utc',
  });

function Stat(panel) {
  const { options, width, height, theme, config, report } = panel;
  if (options.graphMode !== 'none') throw new Error(`options.graphMode ${options.graphMode} is not drawn`);
  const values = shownValues(panel);
  report.values = values.map(({ display }) => ({
    title: display.title,
    text: formattedValueToString(display),
    value: display.numeric,
  }));
  const named = options.textMode === 'auto' && (config.defaults.displayName || !panel.panel.title);
  return (
    <VizRepeater
      getValues={() => values}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      source={panel.frames}
      renderCounter={0}
      autoGrid
      width={width}
      height={height}
      itemSpacing={3}
      orientation={options.orientation}
      renderValue={({ value, width, height, count, alignmentFactors }) => (
        <BigValue
          theme={theme}
          value={value.display}
          count={count}
          width={width}
          height={height}
          colorMode={options.colorMode}
          graphMode={options.graphMode}
          justifyMode={options.justifyMode}
          textMode={named ? 'value_and_name' : options.textMode}
          disableWideLayout={!options.wideLayout}
          alignmentFactors={alignmentFactors}
        />
      )}
    />
  );
}

function Bars(panel) {
  const { options, width, height, theme, report } = panel;
  const { displayMode, orientation } = options;
  if (displayMode === 'lcd') throw new Error('options.displayMode lcd is not drawn');
  if (orientation === 'auto') throw new Error('options.orientation auto is not drawn');
  const values = shownValues(panel);
  report.values = values.map(({ display }) => ({
    title: display.title,
    text: formattedValueToString(display),
    value: display.numeric,
  }));
  return (
    <VizRepeater
      getValues={() => values}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      source={panel.frames}
      renderCounter={0}
      width={width}
      height={height}
      itemSpacing={10}
      orientation={orientation}
      minVizWidth={options.minVizWidth}
      minVizHeight={options.minVizHeight}
      maxVizHeight={options.maxVizHeight}
      renderValue={({ value, width, height, count, alignmentFactors }) => (
        <BarGauge
          theme={theme}
          width={width}
          height={height}
          orientation={orientation}
          field={value.field}
          value={count === 1 && !value.field.displayName ? { ...value.display, title: undefined } : value.display}
          display={value.view?.getFieldDisplayProcessor(value.colIndex)}
          itemSpacing={10}
          displayMode={displayMode}
          alignmentFactors={count > 1 ? alignmentFactors : undefined}
          showUnfilled={options.showUnfilled}
          valueDisplayMode={options.valueMode}
          namePlacement={options.namePlacement}
          isOverflow={false}
        />
      )}
    />
  );
}

function Rows({ options, frames, width, height, config, replace, range }) {
  if (frames.length > 1) throw new Error(`a table of ${frames.length} frames shows only the first`);
  return (
    <Table
      data={frames[0]}
      width={width}
      height={height}
      noHeader={!options.showHeader}
      showTypeIcons={false}
      resizable
      initialSortBy={options.sortBy}
      cellHeight={options.cellHeight}
      footerOptions={options.footer}
      timeRange={range}
      fieldConfig={config}
      replaceVariables={replace}
    />
  );
}

function Graph({ options, frames, range, width, height, theme, report, regions }) {
  const graphable = frames.map((frame) => ({
    ...frame,
    fields: frame.fields.map((field) =>
      field.type === 'number'
        ? { ...field, values: field.values.map((value) => (Number.isFinite(value) ? value : null)) }
        : field,
    ),
  }));
  report.series = graphable.map((frame) => {
    const [{ values: times }, field] = frame.fields;
    return {
      name: getFieldDisplayName(field, frame, graphable),
      points: frame.length,
      last: field.values.at(-1),
      at: times.at(-1) / 1000,
    };
  });
  // Bars of nothing are not seen, and rightly so.
  const values = graphable.flatMap(({ fields: [, field] }) =>
    field.values.map((value) => (field.config.custom.drawStyle === 'bars' && value === 0 ? 'no bar' : value)),
  );
  report.blank = values.includes('no bar') && values.every((value) => value === null || value === 'no bar');
  return (
    <PanelContextProvider value={{ eventBus: new EventBusSrv(), eventsScope: 'panel' }}>
      <TimeSeries frames={graphable} width={width} height={height} timeRange={range} timeZone="utc" legend={options.legend}>
        {(builder) => <Marks builder={builder} regions={regions} theme={theme} report={report} />}
      </TimeSeries>
    </PanelContextProvider>
  );
}

// Counts the pixels that the series changed, then draws the annotations as Grafana does: dashed lines, regions between two.
function Marks({ builder, regions, theme, report }) {
  React.useLayoutEffect(() => {
    let before;
    const pixels = (u) => new Uint32Array(u.ctx.getImageData(0, 0, u.ctx.canvas.width, u.ctx.canvas.height).data.buffer);
    builder.addHook('drawAxes', (u) => {
      before = pixels(u);
    });
    builder.addHook('draw', (u) => {
      const after = pixels(u);
      report.ink = after.reduce((count, pixel, i) => count + (pixel !== before[i]), 0);
      const { ctx, bbox } = u;
      for (const { time, end, color } of regions) {
        const x = (moment) => Math.min(Math.max(u.valToPos(moment, 'x', true), bbox.left), bbox.left + bbox.width);
        const [left, right] = [x(time), x(end)];
        ctx.save();
        ctx.strokeStyle = ctx.fillStyle = theme.visualization.getColorByName(color);
        ctx.setLineDash([5, 5]);
        ctx.lineWidth = 2;
        for (const side of new Set([left, right])) ctx.stroke(new Path2D(`M ${side} ${bbox.top} V ${bbox.top + bbox.height}`));
        ctx.globalAlpha = 0.1;
        ctx.fillRect(left, bbox.top, right - left, bbox.height);
        ctx.globalAlpha = 1;
        if (right > left) ctx.fillRect(left, bbox.top + bbox.height, right - left, 5);
        else ctx.fill(new Path2D(`M ${left - 4} ${bbox.top + bbox.height + 5} h 8 l -4 -5 z`));
        ctx.restore();
      }
    });
  }, [builder]);
  return null;
}

const DRAW = { timeseries: Graph, stat: Stat, bargauge: Bars, table: Rows };

const Nothing = ({ width, height, config }) => (
  <div style={{ width, height, display: 'grid', placeItems: 'center', fontSize: 18, opacity: 0.7 }}>
    {config.defaults.noValue ?? 'No data'}
  </div>
);

function Content({ panel, ...rest }) {
  const Draw = DRAW[panel.type];
  if (rest.report.state === 'no data' && panel.type !== 'stat' && panel.type !== 'bargauge') return <Nothing {...rest} />;
  return (
    <ErrorBoundary>
      {({ error }) => {
        if (!error) return <Draw panel={panel} {...rest} />;
        Object.assign(rest.report, { state: 'error', error: error.message });
        return <pre>{error.message}</pre>;
      }}
    </ErrorBoundary>
  );
}

function Panel({ box, panel, report, frames, ...rest }) {
  const title = report.title;
  const links = panel.links?.length > 0 && <Icon name="external-link-alt" style={{ margin: 8 }} />;
  return (
    <div className="panel" data-id={panel.id} style={{ position: 'absolute', ...box }}>
      <PanelChrome
        title={title}
        description={panel.description ? () => panel.description : undefined}
        titleItems={links}
        width={box.width}
        height={box.height}
        padding={panel.type === 'table' ? 'none' : 'md'}
        displayMode={panel.transparent ? 'transparent' : 'default'}
        statusMessage={report.error}
      >
        {(width, height) =>
          report.error ? (
            <pre>{report.error}</pre>
          ) : (
            <Content panel={panel} report={report} frames={frames} {...rest} width={width} height={height} />
          )
        }
      </PanelChrome>
    </div>
  );
}

// --- Dashboard ---------------------------------------------------------------

// A variable's value in a link or a title: where a row is at hand, also what is known of it.
const replacer = (values, range) => (text, scoped, format) => {
  const context = scoped?.__dataContext?.value;
  const encode = (value) => (format === 'uriencode' ? encodeURIComponent(value) : String(value));
  const ofRow = {
    __value: () => encode(context.field.values[context.rowIndex]),
    __data: (path) => {
      const [, plain, quoted] = /^fields(?:\.([^.["]+)|\["(.+?)"\])$/.exec(path) ?? [];
      const names = (field) => [field.name, getFieldDisplayName(field, context.frame, context.data)];
      const field = context.frame.fields.find((one) => names(one).includes(plain ?? quoted));
      if (!field) throw new Error(`no field for \${__data.${path}}`);
      return encode(field.values[context.rowIndex]);
    },
  };
  const times = `from=${range.from.valueOf()}&to=${range.to.valueOf()}`;
  return interpolate(text, values, { __url_time_range: () => times, ...(context && ofRow) });
};

// A panel that repeats is drawn for each value, and what is below moves down.
function layout(dashboard, width, values) {
  const column = (width - 2 * PADDING - 23 * GAP) / 24;
  const collapsed = dashboard.panels.find((panel) => panel.collapsed);
  if (collapsed) throw new Error(`a collapsed row is not drawn: ${collapsed.title}`);
  const flat = dashboard.panels.map((panel) => ({ panel, ...panel.gridPos }));
  const repeated = flat.flatMap((one) => {
    const { repeat, maxPerRow = 4 } = one.panel;
    if (!repeat) return [{ ...one, own: values }];
    const chosen = values[repeat].many.length ? values[repeat].many : [''];
    const across = Math.min(maxPerRow, chosen.length);
    return chosen.map((value, i) => ({
      ...one,
      w: 24 / across,
      x: ((i % across) * 24) / across,
      below: Math.floor(i / across) * one.h,
      grows: i === 0 ? (Math.ceil(chosen.length / across) - 1) * one.h : 0,
      own: { ...values, [repeat]: { ...values[repeat], ...written(values[repeat].variable, [value]) } },
    }));
  });
  const moved = ({ y, below = 0 }) =>
    y + below + repeated.reduce((sum, other) => sum + (other.grows && other.y + other.h <= y ? other.grows : 0), 0);
  return repeated.map((one, i) => ({
    panel: { ...one.panel, id: i },
    values: one.own,
    box: {
      left: PADDING + one.x * (column + GAP),
      top: moved(one) * (CELL + GAP),
      width: Math.floor(one.w * column + (one.w - 1) * GAP),
      height: one.h * CELL + (one.h - 1) * GAP,
    },
  }));
}

async function prepare({ panel, box, values }, { range, scrape, theme }) {
  const replace = replacer(values, range);
  const report = { title: replace(panel.title ?? '', undefined, 'text'), type: panel.type, state: 'done' };
  const config = fieldConfig(panel);
  const options = {
    ...OPTION_DEFAULTS[panel.type],
    ...panel.options,
    ...(OPTION_DEFAULTS[panel.type]?.reduceOptions && {
      reduceOptions: { ...OPTION_DEFAULTS[panel.type].reduceOptions, ...panel.options?.reduceOptions },
    }),
  };
  const same = { panel, box, report, config, options, range, theme, replace, frames: [] };
  try {
    const missing = undrawn(panel);
    if (missing.length) throw new Error(missing.map((one) => `${one} is not drawn`).join('\n'));
    const { frames, queries } = await query(panel, box.width, range, scrape, values);
    report.queries = queries;
    const unknown = (panel.transformations ?? []).filter((one) => !standardTransformersRegistry.getIfExists(one.id));
    if (unknown.length) throw new Error(`transformation ${unknown[0].id} is not drawn`);
    const transformed = await lastValueFrom(transformDataFrame(panel.transformations ?? [], frames, { interpolate: replace }));
    same.frames = applyFieldOverrides({
      data: transformed,
      fieldConfig: config,
      fieldConfigRegistry: registry(panel.type),
      replaceVariables: replace,
      theme,
      timeZone: 'utc',
    });
    report.points = transformed.reduce((sum, frame) => sum + frame.length, 0);
    if (report.points === 0) report.state = 'no data';
  } catch (error) {
    Object.assign(report, { state: 'error', error: error.message });
  }
  return same;
}

function Top({ dashboard, values, range, replace, theme }) {
  const box = {
    border: `1px solid ${theme.colors.border.medium}`,
    borderRadius: 2,
    padding: '5px 8px',
    background: theme.colors.background.primary,
  };
  const shown = Object.values(values).filter(({ variable }) => variable.hide !== 2);
  const toggles = (dashboard.annotations?.list ?? []).filter((one) => !one.builtIn && !one.hide);
  return (
    <div style={{ padding: `12px ${PADDING}px 8px`, display: 'flex', flexWrap: 'wrap', gap: 8, alignItems: 'center' }}>
      <div style={{ width: '100%', display: 'flex', justifyContent: 'space-between' }}>
        <span style={{ fontSize: 18, fontWeight: 500 }}>{dashboard.title}</span>
        <span style={box}>
          <Icon name="clock-nine" /> {range.from.utc().format('YYYY-MM-DD HH:mm:ss')} to{' '}
          {range.to.utc().format('YYYY-MM-DD HH:mm:ss')} UTC
        </span>
      </div>
      {shown.map(({ variable, shown }) => (
        <span key={variable.name} style={{ display: 'flex' }}>
          {variable.hide !== 1 && (
            <span style={{ ...box, background: theme.colors.background.secondary, fontWeight: 500, fontSize: 12 }}>
              {variable.label || variable.name}
            </span>
          )}
          <span style={{ ...box, minWidth: 80 }}>
            {shown} <Icon name="angle-down" />
          </span>
        </span>
      ))}
      {toggles.map((one) => (
        <span key={one.name} style={{ ...box, fontSize: 12 }}>
          {one.name} <span style={{ color: theme.visualization.getColorByName(one.iconColor) }}>●</span>
        </span>
      ))}
      <span style={{ flexGrow: 1 }} />
      {(dashboard.links ?? []).map((link) => (
        <LinkButton key={link.title} size="sm" variant="secondary" icon="external-link-alt" href={replace(link.url)}>
          {link.title}
        </LinkButton>
      ))}
    </div>
  );
}

const Row = ({ box, panel, theme, replace }) => (
  <div
    style={{
      position: 'absolute',
      ...box,
      display: 'flex',
      alignItems: 'center',
      gap: 8,
      fontSize: 16,
      fontWeight: 500,
    }}
  >
    <Icon name="angle-down" /> {replace(panel.title, undefined, 'text')}
  </div>
);

// What a browser shows of each panel, once it does.
function read(panels) {
  for (const { panel, report } of panels.filter((one) => one.report.state === 'done')) {
    const frame = document.querySelector(`[data-id="${panel.id}"]`);
    report.text = frame.innerText;
    report.links = [...frame.querySelectorAll('a')].map((link) => link.getAttribute('href'));
    if (panel.type !== 'table') continue;
    const cells = (row, role) => [...row.querySelectorAll(`[role=${role}]`)].map((cell) => cell.innerText.trim());
    const rows = [...frame.querySelectorAll('[role=row]')];
    report.columns = cells(rows[0], 'columnheader');
    report.rows = rows.slice(1).map((row) => cells(row, 'cell'));
  }
}

async function main() {
  const { dashboard, from, to, scrape, chosen, mode, width } = await (await fetch('/job.json')).json();
  const strange = (dashboard.links ?? []).filter((link) => link.type !== 'link');
  if (strange.length) throw new Error(`links of type ${strange[0].type} are not drawn`);
  const theme = createTheme({ colors: { mode } });
  const range = timeRange({ from: from ?? dashboard.time.from, to: to ?? dashboard.time.to });
  const values = await variables(dashboard, chosen, range);
  const replace = replacer(values, range);
  const shared = { range, scrape, values, theme, replace };
  const placed = layout(dashboard, width, values);
  const rows = placed.filter(({ panel }) => panel.type === 'row');
  const [regions, panels] = await Promise.all([
    annotations(dashboard, range, values),
    Promise.all(placed.filter(({ panel }) => panel.type !== 'row').map((one) => prepare(one, shared))),
  ]);
  const height = Math.max(...placed.map(({ box }) => box.top + box.height)) + PADDING;
  const root = createRoot(document.getElementById('page'));
  const frame = () => new Promise(requestAnimationFrame);
  // Canvases do not wait for fonts: those that the styles ask for come first.
  root.render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
    </ThemeContext.Provider>,
  );
  const fonts = ['400 12px Inter', '500 14px Inter', '400 12px "Roboto Mono"'];
  while (!(await Promise.all(fonts.map((font) => document.fonts.load(font)))).every((faces) => faces.length)) await frame();
  root.render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <Top dashboard={dashboard} {...shared} />
      <div style={{ position: 'relative', height }}>
        {rows.map((one) => (
          <Row key={one.panel.id} {...one} {...shared} />
        ))}
        {panels.map((one) => (
          <Panel key={one.panel.id} {...one} regions={regions} />
        ))}
      </div>
    </ThemeContext.Provider>,
  );
  const drawn = ({ report, panel }) => report.state !== 'done' || panel.type !== 'timeseries' || report.ink !== undefined;
  do await frame();
  while (!document.querySelector('.panel') || !panels.every(drawn));
  await frame();
  read(panels);
  window.report = {
    panels: panels.map(({ report }) => report),
    annotations: regions.map(({ time, end, annotation, title, text }) => ({
      name: annotation.name,
      time,
      end,
      title,
      text,
    })),
    variables: Object.fromEntries(
      Object.entries(values).map(([name, { shown, query, options }]) => [name, { shown, query, options }]),
    ),
  };
}

main().catch((error) => {
  window.report = { panels: [], error: error.message };
});
