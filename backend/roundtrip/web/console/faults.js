// The named faults: on, off, and what one should then see.
import { change } from "/static/api.js";
import { Component, html } from "/static/html.js";
import { Heading, Tag } from "/static/parts.js";
import { FAULTS_FORBIDDEN } from "/static/words.js";

export class Faults extends Component {
  state = { problem: null, known: {} };

  render({ state }, { problem, known }) {
    return html`
      <${Heading}>Faults<//>
      ${!state.faultsAllowed && html`<p class="empty">${FAULTS_FORBIDDEN}</p>`}
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      ${state.faults.map((fault) => html`<${Fault} key=${fault.name} fault=${{ ...fault, ...(known[fault.name] ?? {}) }} allowed=${state.faultsAllowed} onSwitch=${(body) => this.switch(fault, body)} />`)}`;
  }

  async switch(fault, body) {
    const path = `/debug/faults/${fault.name}`;
    const answer = await (body ? change("PUT", path, body) : change("DELETE", path)).catch(() => null);
    if (!answer?.ok) {
      this.setState({ problem: answer?.data?.detail ?? "The backend does not answer." });
      return;
    }
    this.setState(({ known }) => ({ problem: null, known: { ...known, [fault.name]: { active: answer.data.active, parameter: answer.data.parameter } } }));
  }

  componentDidUpdate(before) {
    if (before.state.faults !== this.props.state.faults && Object.keys(this.state.known).length) this.setState({ known: {} });
  }
}

class Fault extends Component {
  render({ fault, allowed, onSwitch }) {
    const submit = (event) => {
      event.preventDefault();
      const given = event.target.elements.parameter?.value;
      onSwitch(fault.active ? null : given ? { parameter: Number(given) } : {});
    };
    return html`<article class=${`card fault ${fault.active ? "fault-on" : ""}`} data-fault=${fault.name}>
      <h2>${fault.name} <${Tag} kind=${fault.active ? "bad" : "plain"}>${fault.active ? `on${fault.parameter === null ? "" : `: ${fault.parameter} ${fault.unit}`}` : "off"}<//></h2>
      <p>${fault.description}</p>
      <p class="muted"><strong>What one should see:</strong> ${fault.expect}</p>
      <form onSubmit=${submit}>
        ${fault.unit && !fault.active && html`<label>${fault.unit} <input name="parameter" type="number" min="0" step="any" inputmode="decimal" /></label> `}
        <button type="submit" disabled=${!allowed}>Switch ${fault.active ? "off" : "on"}<span class="visually-hidden"> ${fault.name}</span></button>
      </form>
    </article>`;
  }
}
