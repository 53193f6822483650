//! Tokens against an issuer on this machine, with keys made for the test.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, Header};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const AUDIENCE: &str = "wharf";

/// An issuer: what it publishes may change, and it counts who asks.
struct Server {
    url: String,
    state: Arc<Published>,
}

#[derive(Default)]
struct Published {
    keys: Mutex<Vec<Value>>,
    asked: AtomicUsize,
    down: std::sync::atomic::AtomicBool,
}

impl Server {
    async fn start() -> Server {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Published::default());
        let (published, issuer) = (Arc::clone(&state), url.clone());
        let keys = move || {
            let published = Arc::clone(&published);
            async move {
                published.asked.fetch_add(1, Ordering::SeqCst);
                let keys = published.keys.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if published.down.load(Ordering::SeqCst) {
                    Err(http::StatusCode::BAD_GATEWAY)
                } else {
                    Ok(axum::Json(json!({"keys": keys})))
                }
            }
        };
        let discovery = json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")});
        let app = axum::Router::new().route("/keys", axum::routing::get(keys)).route(
            "/.well-known/openid-configuration",
            axum::routing::get(move || std::future::ready(axum::Json(discovery))),
        );
        tokio::spawn(async move { axum::serve(listener, app).await });
        Server { url, state }
    }

    fn publish(&self, keys: &[&Signer]) {
        let keys = keys.iter().map(|key| key.public.clone()).collect();
        *self.state.keys.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }

    fn config(&self) -> IssuerConfig {
        IssuerConfig::new(&self.url, AUDIENCE)
    }

    fn claims(&self, now: Moment) -> Value {
        json!({"iss": self.url, "aud": AUDIENCE, "sub": "ann", "exp": now.unix_ms / 1000 + 300})
    }
}

/// A key pair, made by the openssl command.
struct Signer {
    id: &'static str,
    algorithm: jsonwebtoken::Algorithm,
    key: EncodingKey,
    public: Value,
}

impl Signer {
    fn new(id: &'static str, algorithm: jsonwebtoken::Algorithm) -> Signer {
        use jsonwebtoken::Algorithm as A;
        let args: &[&str] = match algorithm {
            A::ES256 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            A::ES384 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            A::EdDSA => &["-algorithm", "ED25519"],
            _ => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        };
        let output = Command::new("openssl").arg("genpkey").args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let key = match algorithm {
            A::ES256 | A::ES384 => EncodingKey::from_ec_pem(&output.stdout),
            A::EdDSA => EncodingKey::from_ed_pem(&output.stdout),
            _ => EncodingKey::from_rsa_pem(&output.stdout),
        };
        let key = key.unwrap();
        let mut jwk = Jwk::from_encoding_key(&key, algorithm).unwrap();
        jwk.common.key_id = Some(id.to_owned());
        Signer { id, algorithm, key, public: serde_json::to_value(&jwk).unwrap() }
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

fn fault(result: Result<Arc<Principal>, Denied>) -> TokenFault {
    match result {
        Err(Denied::Token(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_accepted_algorithm_signs_for_its_subject() {
    use jsonwebtoken::Algorithm as A;
    let server = Server::start().await;
    let signers = [("r", A::RS256), ("p", A::PS256), ("e", A::ES256), ("f", A::ES384), ("d", A::EdDSA)];
    let signers = signers.map(|(id, algorithm)| Signer::new(id, algorithm));
    server.publish(&signers.iter().collect::<Vec<_>>());
    let tokens = Tokens::new(vec![server.config()]).unwrap();
    let now = Moment::now();
    for signer in &signers {
        let token = signer.sign(&server.claims(now));
        assert!(Tokens::looks_like_one(&token));
        let principal = tokens.check(&token, now).await.unwrap();
        assert_eq!(*principal.id, *format!("token:{}:ann", server.url), "{:?}", signer.algorithm);
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn claims_are_checked_one_by_one() {
    let server = Server::start().await;
    let signer = Signer::new("k", jsonwebtoken::Algorithm::ES256);
    server.publish(&[&signer]);
    let tokens = Tokens::new(vec![server.config()]).unwrap();
    let now = Moment::now();
    let seconds = now.unix_ms / 1000;
    let cases = [
        ("iss", json!("https://other.example"), TokenFault::Issuer),
        ("iss", json!(null), TokenFault::Claim),
        ("aud", json!("other"), TokenFault::Audience),
        ("aud", json!(["other", "wharf2"]), TokenFault::Audience),
        ("aud", json!(null), TokenFault::Audience),
        ("exp", json!(seconds - 31), TokenFault::Expired),
        ("exp", json!("never"), TokenFault::Claim),
        ("exp", json!(null), TokenFault::Claim),
        ("nbf", json!(seconds + 60), TokenFault::Early),
        ("sub", json!(7), TokenFault::Claim),
        ("sub", json!(""), TokenFault::Claim),
    ];
    for (claim, value, expected) in cases {
        let mut claims = server.claims(now);
        claims[claim] = value.clone();
        assert_eq!(fault(tokens.check(&signer.sign(&claims), now).await), expected, "{claim}: {value}");
    }
    let mut claims = server.claims(now);
    claims["aud"] = json!(["other", AUDIENCE]);
    claims["exp"] = json!(seconds - 10);
    claims["nbf"] = json!(seconds + 10);
    assert!(tokens.check(&signer.sign(&claims), now).await.is_ok(), "clocks may differ by the leeway");
}

#[tokio::test]
async fn nobody_signs_with_what_is_public() {
    use jsonwebtoken::Algorithm as A;
    let server = Server::start().await;
    let signer = Signer::new("k", A::RS256);
    server.publish(&[&signer]);
    let tokens = Tokens::new(vec![server.config()]).unwrap();
    let now = Moment::now();
    let claims = server.claims(now);
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    for name in ["none", "None", "NONE", ""] {
        let unsigned = format!("{}.{}.", part(&json!({"alg": name, "kid": "k"})), part(&claims));
        assert_eq!(fault(tokens.check(&unsigned, now).await), TokenFault::Algorithm, "{name}");
    }
    // The published modulus as a shared secret: the classic confusion of algorithms.
    let header = Header { kid: Some("k".into()), ..Header::new(A::HS256) };
    let secret = EncodingKey::from_secret(signer.public["n"].as_str().unwrap().as_bytes());
    let forged = jsonwebtoken::encode(&header, &claims, &secret).unwrap();
    assert_eq!(fault(tokens.check(&forged, now).await), TokenFault::Algorithm);
    // Another's key under the same id.
    let thief = Signer::new("k", A::RS256);
    assert_eq!(fault(tokens.check(&thief.sign(&claims), now).await), TokenFault::Signature);
    // The same key with an algorithm that it is not published for.
    let other = Header { kid: Some("k".into()), ..Header::new(A::PS256) };
    let other = jsonwebtoken::encode(&other, &claims, &signer.key).unwrap();
    assert_eq!(fault(tokens.check(&other, now).await), TokenFault::Algorithm);
    // One character of the claims.
    let good = signer.sign(&claims);
    let mut bad = claims.clone();
    bad["sub"] = json!("eve");
    let pieces: Vec<&str> = good.split('.').collect();
    let changed = format!("{}.{}.{}", pieces[0], part(&bad), pieces[2]);
    assert_eq!(fault(tokens.check(&changed, now).await), TokenFault::Signature);
    assert!(tokens.check(&good, now).await.is_ok());
}

#[tokio::test]
async fn keys_rotate_without_a_pause_and_unknown_ones_do_not_make_us_ask() {
    let server = Server::start().await;
    let (old, new) =
        (Signer::new("1", jsonwebtoken::Algorithm::ES256), Signer::new("2", jsonwebtoken::Algorithm::ES256));
    server.publish(&[&old]);
    let tokens = Tokens::new(vec![server.config()]).unwrap();
    let start = Moment::now();
    let ask = async |signer: &Signer, now: Moment| tokens.check(&signer.sign(&server.claims(now)), now).await;
    assert!(ask(&old, start).await.is_ok());
    server.publish(&[&new]);
    assert_eq!(fault(ask(&new, start.after(Duration::from_secs(1))).await), TokenFault::Key);
    for _ in 0..10 {
        assert!(ask(&new, start.after(Duration::from_secs(2))).await.is_err());
    }
    assert_eq!(server.asked(), 1, "once in thirty seconds is enough");
    let later = start.after(Duration::from_secs(31));
    assert!(ask(&new, later).await.is_ok());
    assert_eq!(fault(ask(&old, later).await), TokenFault::Key);
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn when_the_issuer_is_away_known_keys_hold_for_a_while_and_then_nobody_passes() {
    let server = Server::start().await;
    let signer = Signer::new("k", jsonwebtoken::Algorithm::ES256);
    server.publish(&[&signer]);
    let tokens = Tokens::new(vec![IssuerConfig { stale_seconds: 3600, ..server.config() }]).unwrap();
    let start = Moment::now();
    let ask = async |now: Moment| tokens.check(&signer.sign(&server.claims(now)), now).await;
    server.state.down.store(true, Ordering::SeqCst);
    let away = Err(Denied::IssuerUnavailable { retry_after: Duration::from_secs(30) });
    assert_eq!(ask(start).await, away);
    server.state.down.store(false, Ordering::SeqCst);
    let begun = start.after(Duration::from_secs(31));
    assert!(ask(begun).await.is_ok());
    server.state.down.store(true, Ordering::SeqCst);
    assert!(ask(begun.after(Duration::from_secs(3600))).await.is_ok());
    assert_eq!(ask(begun.after(Duration::from_secs(3700))).await, away);
    server.state.down.store(false, Ordering::SeqCst);
    assert!(ask(begun.after(Duration::from_secs(3800))).await.is_ok());
}

#[tokio::test]
async fn keys_are_renewed_before_a_request_would_wait_for_them() {
    let server = Server::start().await;
    let signer = Signer::new("k", jsonwebtoken::Algorithm::ES256);
    server.publish(&[&signer]);
    let issuer = Issuer::new(server.config()).unwrap();
    let start = Moment::now();
    let after = |seconds| start.after(Duration::from_secs(seconds));
    issuer.renew(start).await;
    issuer.renew(after(539)).await;
    assert_eq!(server.asked(), 1);
    issuer.renew(after(540)).await;
    assert_eq!(server.asked(), 2);
    server.state.down.store(true, Ordering::SeqCst);
    // An issuer that is away is asked once in half a minute.
    for seconds in [1080, 1081, 1109, 1110] {
        issuer.renew(after(seconds)).await;
    }
    assert_eq!(server.asked(), 4);
}

#[tokio::test]
async fn whoever_follows_has_keys_before_the_first_token_comes() {
    let server = Server::start().await;
    let signer = Signer::new("k", jsonwebtoken::Algorithm::ES256);
    server.publish(&[&signer]);
    let tokens = Tokens::new(vec![server.config()]).unwrap();
    let following = tokio::spawn(tokens.clone().follow());
    while tokens.0[0].keys.load().is_none() {
        tokio::task::yield_now().await;
    }
    server.state.down.store(true, Ordering::SeqCst);
    let now = Moment::now();
    assert!(tokens.check(&signer.sign(&server.claims(now)), now).await.is_ok());
    following.abort();
}

#[tokio::test]
async fn a_herd_asks_once() {
    let server = Server::start().await;
    let signer = Signer::new("k", jsonwebtoken::Algorithm::ES256);
    server.publish(&[&signer]);
    let tokens = Tokens::new(vec![server.config()]).unwrap();
    let now = Moment::now();
    let token = signer.sign(&server.claims(now));
    let herd: Vec<_> = (0..50)
        .map(|_| {
            let (tokens, token) = (tokens.clone(), token.clone());
            tokio::spawn(async move { tokens.check(&token, now).await })
        })
        .collect();
    for one in herd {
        assert!(one.await.unwrap().is_ok());
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn claims_say_models_and_class() {
    let server = Server::start().await;
    let signer = Signer::new("k", jsonwebtoken::Algorithm::EdDSA);
    server.publish(&[&signer]);
    let limits = Limits { tokens_per_day: Some(5), ..Limits::default() };
    let gold = Class { limits, priority: Priority::Interactive };
    let config = IssuerConfig {
        jwks_url: Some(format!("{}/keys", server.url)),
        models_claim: Some("models".into()),
        class_claim: Some("tier".into()),
        name_claim: Some("email".into()),
        classes: [("gold".to_owned(), gold)].into(),
        ..server.config()
    };
    let tokens = Tokens::new(vec![config]).unwrap();
    let now = Moment::now();
    let mut claims = server.claims(now);
    let bare = tokens.check(&signer.sign(&claims), now).await.unwrap();
    assert!(bare.may_use("a").is_err(), "a token that lists no model has none");
    assert_eq!((bare.priority, &*bare.name), (Priority::Default, "ann"));
    claims["models"] = json!("a b");
    claims["tier"] = json!("gold");
    claims["email"] = json!("ann@example.com");
    let rich = tokens.check(&signer.sign(&claims), now).await.unwrap();
    assert!(rich.may_use("b").is_ok() && rich.may_use("c").is_err());
    assert_eq!((rich.priority, rich.limits, &*rich.name), (Priority::Interactive, limits, "ann@example.com"));
}

#[test]
fn issuers_are_checked_before_they_are_asked() {
    let insecure = IssuerConfig::new("http://issuer.example", "a");
    assert!(matches!(Tokens::new(vec![insecure]), Err(TokenConfigError::Insecure { .. })));
    let nobody = IssuerConfig::new("https://issuer.example", "");
    assert!(matches!(Tokens::new(vec![nobody]), Err(TokenConfigError::Missing { field: "audience", .. })));
    let good = || IssuerConfig::new("https://issuer.example", "a");
    assert!(matches!(Tokens::new(vec![good(), good()]), Err(TokenConfigError::Twice { .. })));
    let text = r#"{"issuer": "https://i", "audience": "a", "algorithms": ["HS256"]}"#;
    assert!(serde_json::from_str::<IssuerConfig>(text).is_err(), "shared secrets have no name here");
}

proptest! {
    #[test]
    fn any_text_is_a_token_or_an_error(text in "\\PC*|(eyJ)?[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,60}") {
        drop(Unread::parse(&text));
    }

    #[test]
    fn any_claims_are_somebodys_or_an_error(text in "\\{(\"(iss|aud|exp|nbf|sub)\": ?(\"i\"|1e400|-1|\\[\"a\"\\]|null|9999999999),?){0,6}\\}") {
        if let Ok(claims) = serde_json::from_str(&text) {
            drop(principal(&IssuerConfig::new("i", "a"), &claims, Moment::now()));
        }
    }
}
