// Each linked account: its state, its worker, what failed and what to do; and the history of one.
import { html } from "/static/html.js";
import { Facts, Heading, Id, Key, Loaded, Table, Tag, Time } from "/static/parts.js";
import { paths } from "/static/router.js";
import { Filter, PAGE, Pages } from "/static/sockets.js";
import { NEEDS_PERSON } from "/static/words.js";

const State = ({ link }) => html`<${Tag} kind=${NEEDS_PERSON.has(link.state) ? "bad" : link.state === "connected" ? "good" : "plain"}>${link.state}<//>${link.flapping ? html` <${Tag} kind="bad">flapping<//>` : null}`;

export class Links extends Loaded {
  address() {
    const { query } = this.props;
    return `/debug/console/links?q=${encodeURIComponent(query.get("q") ?? "")}&state=${encodeURIComponent(query.get("state") ?? "")}&offset=${Number(query.get("offset")) || 0}&limit=${PAGE}`;
  }

  render({ state, query }) {
    const { data } = this.state;
    const q = query.get("q") ?? "";
    const offset = Number(query.get("offset")) || 0;
    return html`
      <${Heading}>Links<//>
      <p>
        ${Object.entries(state.totals.links).map(([name, count]) => html`<a key=${name} href=${`/console/links?state=${name}`}>${name} ${count}</a> `)}
        ${query.get("state") ? html`· <a href="/console/links">all</a>` : null}
      </p>
      <${Filter} view="links" q=${q} label="User, bot or link" />
      ${!data
        ? this.waiting()
        : html`
            <${Table}
              label="Links"
              head=${["Key", "State", "Since", "Phone", "Reason", "What the user is told", "Worker", "Restarts", "Flaps", "Owner"]}
              rows=${data.links.map(({ link, userAction }) => ({
                key: link.linkId,
                cells: [
                  html`<a href=${paths.link(link.linkId)}><${Key} user=${link.userId} bot=${link.botId} /></a>`,
                  html`<${State} link=${link} />`,
                  html`<${Time} at=${link.since} />`,
                  link.phoneNumber,
                  link.reasonCode,
                  userAction,
                  link.workerPid,
                  link.restarts,
                  link.flaps,
                  link.owner ?? link.node ?? "this process",
                ],
              }))}
              empty=${q ? "No such link." : "No account is linked."}
            />
            <${Pages} view="links" q=${q} offset=${offset} more=${offset + data.links.length < data.total} count=${data.links.length} />
          `}`;
  }
}

const told = (attempts) =>
  attempts.map((attempt) => `${attempt.result}${attempt.reason ? ` (${attempt.reason})` : ""}${attempt.omitted ? `, ${attempt.omitted} more` : ""}`).join(", ") || "none yet";

export class LinkView extends Loaded {
  address() {
    return `/debug/links/${encodeURIComponent(this.props.id)}`;
  }

  render() {
    const { data } = this.state;
    if (!data) return html`<${Heading}>Link<//>${this.waiting()}`;
    const { link, events } = data;
    return html`
      <${Heading}>Link of <${Id}>${link.userId}<//> · <${Id}>${link.botId}<//><//>
      <${Facts}
        rows=${[
          ["State", html`<${State} link=${link} />`],
          ["Since", html`<${Time} at=${link.since} />`],
          ["Link", html`<a href=${`/console/traces?link=${encodeURIComponent(link.linkId)}`}><${Id}>${link.linkId}<//></a>`],
          ["Sockets", html`<a href=${paths.key(link.userId, link.botId)}>of this key</a>`],
          ["Phone", link.phoneNumber],
          ["Reason", link.reasonCode],
          ["Worker", link.workerPid],
          ["Restarts", link.restarts],
          ["Flaps", link.flaps],
          ["Tried again", link.retryAt && html`<${Time} at=${link.retryAt} />`],
          ["Armed timers", link.deadlines.join(", ")],
          ["Waits for the outbox", link.stalled ? "yes" : null],
        ]}
      />
      <h2>What was said about it, newest first</h2>
      <${Table}
        label="Events of this link"
        head=${["Seq", "Event", "At", "Outcome", "Attempts"]}
        rows=${events.toReversed().map((event) => ({
          key: event.id,
          cells: [event.seq, html`<a href=${paths.event(event.id)}>${event.type}</a>`, html`<${Time} at=${event.createdAt} />`, event.outcome, told(event.attempts)],
        }))}
        empty="Nothing yet."
      />`;
  }
}
