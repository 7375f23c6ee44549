// The login form of a listener that needs the admin key.
import { change } from "/static/api.js";
import { Component, html } from "/static/html.js";
import { open } from "/static/store.js";
import { LOGIN_HINT } from "/static/words.js";

export class Login extends Component {
  state = { problem: null, busy: false };

  async submit(event) {
    event.preventDefault();
    const field = event.target.elements.key;
    this.setState({ busy: true, problem: null });
    const answer = await change("POST", "/debug/console/login", { key: field.value }).catch(() => null);
    field.value = "";
    if (answer?.ok) return open();
    this.setState({ busy: false, problem: answer?.data?.detail ?? "The backend does not answer." });
  }

  render(_props, { problem, busy }) {
    return html`<main class="login">
      <h1>Roundtrip console</h1>
      <form onSubmit=${(event) => this.submit(event)}>
        <label for="key">Admin key</label>
        <input id="key" name="key" type="password" autocomplete="current-password" required autofocus />
        <button type="submit" disabled=${busy}>Log in</button>
        ${problem && html`<p class="problem" role="alert">${problem}</p>`}
        <p class="muted">${LOGIN_HINT}</p>
      </form>
    </main>`;
  }
}

export async function logout() {
  await change("POST", "/debug/console/logout").catch(() => null);
  location.assign("/");
}
