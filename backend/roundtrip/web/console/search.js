// The one search field: event, trace, link, user, bot, or a hash from a log.
import { get } from "/static/api.js";
import { Component, html } from "/static/html.js";
import { Id } from "/static/parts.js";
import { go } from "/static/router.js";

export class Search extends Component {
  state = { hits: null };

  async submit(event) {
    event.preventDefault();
    const text = event.target.elements.search.value.trim();
    if (!text) return this.setState({ hits: null });
    const answer = await get(`/debug/console/search?q=${encodeURIComponent(text.slice(0, 200))}`).catch(() => null);
    const hits = answer?.ok ? answer.data.hits : [];
    if (hits.length === 1) {
      this.setState({ hits: null });
      return go(hits[0].target);
    }
    this.setState({ hits });
  }

  render(_props, { hits }) {
    return html`<form class="search" role="search" onSubmit=${(event) => this.submit(event)} onClick=${(event) => event.target.closest("a") && this.setState({ hits: null })}>
      <label class="visually-hidden" for="search">Find an event, trace, user, bot or link</label>
      <input id="search" name="search" type="search" maxlength="200" placeholder="Event, trace, user or link id" autocomplete="off" spellcheck=${false} />
      <button type="submit">Find</button>
      <div role="status">
        ${hits && (hits.length ? html`<ul class="hits">${hits.map((hit, n) => html`<li key=${n}><a href=${hit.target}>${hit.kind} <${Id}>${hit.label}<//></a></li>`)}</ul>` : html`<p class="hits">Nothing here has this id.</p>`)}
      </div>
    </form>`;
  }
}
