// Talking to the gateway: the key, errors in OpenAI's form, server-sent events. Paths are relative, so that a proxy may serve the page below a prefix.

const KEY = 'wharf.key';

/** What the gateway refused. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code });
  }

  /** Another key might help. */
  get isAboutKey() {
    return this.status === 401 || (this.status === 403 && (this.code ?? '').startsWith('key_'));
  }
}

/** The key, until the tab is closed. */
export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** Called with an error when a key is missing or refused; `app.js` asks for one. */
let askForKey = () => {};
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/** Fetches, with the key. Throws `ApiError` for any status that is none of success. */
export async function request(path, init = {}) {
  const headers = new Headers(init.headers);
  const secret = key.get();
  if (secret) headers.set('authorization', `Bearer ${secret}`);
  const response = await fetch(path, { ...init, headers, cache: 'no-store', credentials: 'omit', redirect: 'error' });
  if (response.ok) return response;
  const error = await refusal(response);
  if (error.isAboutKey) askForKey(error);
  throw error;
}

async function refusal(response) {
  const text = await response.text().catch(() => '');
  try {
    const { error } = JSON.parse(text);
    return new ApiError(response.status, error.code, error.message);
  } catch {
    return new ApiError(response.status, null, text.slice(0, 300) || `the gateway answered ${response.status}`);
  }
}

export const json = async (path, init) => (await request(path, init)).json();
export const text = async (path) => (await request(path)).text();

/** The data of each event of a response, as text. Comments are passed to `onComment`: they say that somebody is still there. */
export async function* events(response, onComment = () => {}) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      held += value;
      const lines = held.split(/\r?\n/);
      held = lines.pop();
      for (const line of lines) {
        // Everything that speaks to this page puts an event's data on one line.
        if (line.startsWith('data:')) yield line.slice(5).trimStart();
        else if (line.startsWith(':')) onComment();
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
