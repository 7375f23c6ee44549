// Draws panels that picture.py asked Prometheus for, with Grafana's own components and theme.
import { createTheme, FieldType, getDisplayProcessor, ThemeContext, dateTime } from "@grafana/data";
import { BigValue, PanelChrome, TimeSeries } from "@grafana/ui";
import { createRoot } from "react-dom/client";
import "uplot/dist/uPlot.min.css";

const theme = createTheme({ colors: { mode: "dark" } });
const CELL = 34; // pixels of a grid row, gap included
const GAP = 8;
const page = window.page; // {width, from, to, panels: [{panel, series}]}

function config(panel, name) {
  const merged = { ...panel.fieldConfig.defaults, custom: { ...panel.fieldConfig.defaults.custom } };
  for (const { matcher, properties } of panel.fieldConfig.overrides ?? []) {
    if (matcher.id === "byName" && matcher.options === name) {
      for (const { id, value } of properties) if (id === "color") merged.color = value;
    }
  }
  delete merged.links;
  return merged;
}

function field(panel, name, type, values) {
  const made = { name, type, values, config: type === FieldType.time ? {} : { ...config(panel, name), displayName: name } };
  made.display = getDisplayProcessor({ field: made, theme, timeZone: "utc" });
  return made;
}

function seriesFrames(panel, series) {
  return series.map(({ name, points }, index) => {
    const value = field(panel, name, FieldType.number, points.map((point) => point[1]));
    value.state = { seriesIndex: index };
    value.config.color ??= { mode: "palette-classic" };
    value.display = getDisplayProcessor({ field: value, theme, timeZone: "utc" });
    const time = field(panel, "Time", FieldType.time, points.map((point) => point[0] * 1000));
    return { name, fields: [time, value], length: points.length };
  });
}

function Stat({ panel, series, width, height }) {
  const shown = series.length ? series : [{ name: "", points: [[0, null]] }];
  const each = height / shown.length;
  return shown.map(({ name, points }) => {
    const value = field(panel, name, FieldType.number, points.map((point) => point[1]));
    const display = value.display(points.at(-1)[1]);
    if (!series.length) {
      Object.assign(display, { text: panel.fieldConfig.defaults.noValue, numeric: NaN, color: theme.visualization.getColorByName("green") });
    }
    return (
      <BigValue
        key={name}
        width={width}
        height={each}
        theme={theme}
        value={{ ...display, title: name }}
        colorMode={panel.options.colorMode}
        graphMode="none"
        textMode={series.length ? panel.options.textMode : "value"}
        justifyMode="auto"
      />
    );
  });
}

function Graph({ panel, series, width, height }) {
  if (!series.length) return <div style={{ color: theme.colors.text.secondary, padding: 8 }}>No data</div>;
  const range = { from: dateTime(page.from * 1000), to: dateTime(page.to * 1000) };
  return (
    <TimeSeries
      frames={seriesFrames(panel, series)}
      structureRev={1}
      width={width}
      height={height}
      timeRange={{ ...range, raw: range }}
      timeZone="utc"
      legend={{ ...panel.options.legend, calcs: [] }}
    />
  );
}

// Grafana's table needs more of Grafana around it than can be had here: a plain one with its colours.
function Rows({ panel, rows }) {
  if (!rows.length) return <div style={{ color: theme.colors.text.secondary }}>{panel.fieldConfig.defaults.noValue}</div>;
  const columns = Object.keys(rows[0]);
  const cell = { textAlign: "left", padding: "5px 10px", borderBottom: `1px solid ${theme.colors.border.weak}`, fontSize: 14 };
  return (
    <table style={{ borderCollapse: "collapse", width: "100%" }}>
      <thead>
        <tr>{columns.map((name) => <th key={name} style={{ ...cell, color: theme.colors.primary.text }}>{name}</th>)}</tr>
      </thead>
      <tbody>
        {rows.map((row) => (
          <tr key={JSON.stringify(row)}>{columns.map((name) => <td key={name} style={cell}>{row[name]}</td>)}</tr>
        ))}
      </tbody>
    </table>
  );
}

function Panel({ panel, series, rows }) {
  const { x, y, w, h } = panel.gridPos;
  const unit = page.width / 24;
  const box = { position: "absolute", left: x * unit + GAP / 2, top: y * CELL, width: w * unit - GAP, height: h * CELL - GAP };
  if (panel.type === "row") {
    return <div style={{ ...box, color: theme.colors.text.primary, fontSize: 16, fontWeight: 500 }}>{panel.title}</div>;
  }
  const Kind = { stat: Stat, timeseries: Graph, table: Rows }[panel.type];
  return (
    <div style={box}>
      <PanelChrome title={panel.title} width={box.width} height={box.height} padding="md">
        {(width, height) => <Kind {...{ panel, series, rows, width, height }} />}
      </PanelChrome>
    </div>
  );
}

document.body.style.cssText = `margin:0;background:${theme.colors.background.canvas};font-family:${theme.typography.fontFamily};color:${theme.colors.text.primary}`;
document.head.append(Object.assign(document.createElement("style"), { textContent: "*{box-sizing:border-box}button{color:inherit;background:none;border:0;font:inherit;padding:0}" }));
createRoot(document.getElementById("root")).render(
  <ThemeContext.Provider value={theme}>
    {page.panels.map((one) => (
      <Panel key={one.panel.id} {...one} />
    ))}
  </ThemeContext.Provider>,
);
