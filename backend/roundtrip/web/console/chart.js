// One chart of the last 15 minutes, drawn by uPlot.
import uPlot from "/vendor/uplot.js";
import { Component, html } from "/static/html.js";
import { duration } from "/static/parts.js";

const HEIGHT = 130;
const SPAN = 900;

function shown(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "s") return duration(value);
  return `${+value.toPrecision(3)}${unit}`;
}

export class Chart extends Component {
  componentDidMount() {
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.redraw = () => this.draw(true);
    this.scheme.addEventListener("change", this.redraw);
    this.sizes = new ResizeObserver(() => this.plot?.setSize({ width: this.box.clientWidth, height: HEIGHT }));
    this.sizes.observe(this.box);
    this.first = setTimeout(this.redraw); // each chart in a task of its own, or nine of them would hold up the page
  }

  componentDidUpdate() {
    if (this.plot) this.draw(false);
  }

  componentWillUnmount() {
    clearTimeout(this.first);
    this.scheme.removeEventListener("change", this.redraw);
    this.sizes.disconnect();
    this.plot?.destroy();
  }

  draw(anew) {
    const { chart, series } = this.props;
    const last = series.at.at(-1);
    if (!anew && last === this.last) return;
    this.last = last;
    const data = [series.at, ...chart.series.map(([name]) => series[name])].map((values) => values.slice());
    if (this.plot && !anew) {
      this.plot.setData(data);
      return;
    }
    this.plot?.destroy();
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(`--${name}`).trim();
    const axis = { stroke: color("muted"), grid: { stroke: color("line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    this.plot = new uPlot(
      {
        width: this.box.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { show: false },
        scales: { x: { range: () => [(this.props.series.at.at(-1) ?? Date.now() / 1000) - SPAN, this.props.series.at.at(-1) ?? Date.now() / 1000] }, y: { range: (_plot, _low, high) => [0, high > 0 ? high * 1.1 : 1] } },
        axes: [
          { ...axis, size: 24, values: (_plot, times) => times.map((at) => new Date(at * 1000).toTimeString().slice(0, 5)), space: 60 },
          { ...axis, size: 54, values: (_plot, values) => values.map((value) => shown(value, chart.unit)) },
        ],
        series: [{}, ...chart.series.map(([, label, tone]) => ({ label, stroke: color(tone), width: 2, points: { show: false } }))],
      },
      data,
      this.box,
    );
  }

  render({ chart, series }) {
    const now = chart.series.map(([name, label, tone]) => [label, tone, shown(series[name].at(-1), chart.unit)]);
    return html`<figure class="chart">
      <figcaption>
        <strong>${chart.title}</strong>
        ${now.map(([label, tone, value]) => html`<span key=${label}><i class=${`tone tone-${tone}`} aria-hidden="true"></i>${label} ${value}</span>`)}
      </figcaption>
      <div class="plot" role="img" aria-label=${`${chart.title}, the last 15 minutes. Now: ${now.map(([label, , value]) => `${label} ${value}`).join(", ")}`} ref=${(box) => (this.box = box ?? this.box)}></div>
    </figure>`;
  }
}
