// Keeps the proof that the token was given for reloads and links: a cookie of this address, gone after its time.
export default function ({ data }) {
  const secure = location.protocol === "https:" ? "; Secure" : "";
  document.cookie = `${data.name}=${data.proof}; path=/; max-age=${data.seconds}; SameSite=Strict${secure}`;
}
