//! Signed tokens at the gateway's door, from an issuer on this machine whose keys are made here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use wharf_access::Limits;
use wharf_access::token::{Class, IssuerConfig};
use wharf_gateway::GatewayConfig;

use crate::support::{Running, chat, config, engines, service};

/// An issuer. What it publishes may change, and it may be away.
struct Issuer {
    url: String,
    keys: Arc<Mutex<Vec<Value>>>,
    away: Arc<AtomicBool>,
}

impl Issuer {
    async fn start(keys: &[&Signer]) -> Issuer {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let issuer = Issuer { url, keys: Arc::default(), away: Arc::default() };
        issuer.publish(keys);
        let (keys, away) = (Arc::clone(&issuer.keys), Arc::clone(&issuer.away));
        let answer = move || {
            let keys = keys.lock().unwrap().clone();
            let away = away.load(Ordering::SeqCst);
            async move {
                match away {
                    true => Err(http::StatusCode::BAD_GATEWAY),
                    false => Ok(axum::Json(json!({"keys": keys}))),
                }
            }
        };
        let discovery = json!({"issuer": issuer.url, "jwks_uri": format!("{}/keys", issuer.url)});
        let app = axum::Router::new().route("/keys", axum::routing::get(answer)).route(
            "/.well-known/openid-configuration",
            axum::routing::get(move || std::future::ready(axum::Json(discovery))),
        );
        tokio::spawn(async move { axum::serve(listener, app).await });
        issuer
    }

    fn publish(&self, keys: &[&Signer]) {
        *self.keys.lock().unwrap() = keys.iter().map(|key| key.public.clone()).collect();
    }

    /// Asked again as soon as a key is not known, so that a test need not wait for half a minute.
    fn config(&self) -> IssuerConfig {
        IssuerConfig { refetch_seconds: 0, ..IssuerConfig::new(&self.url, "wharf") }
    }

    fn claims(&self) -> Value {
        json!({"iss": self.url, "aud": "wharf", "sub": "ann", "exp": now() + 300})
    }
}

/// A key pair of P-256.
struct Signer {
    id: &'static str,
    key: EncodingKey,
    public: Value,
}

impl Signer {
    fn new(id: &'static str) -> Signer {
        let pair = rcgen::KeyPair::generate().unwrap();
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some(id.to_owned());
        Signer { id, key, public: serde_json::to_value(&jwk).unwrap() }
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn with(issuer: IssuerConfig, mut config: GatewayConfig) -> GatewayConfig {
    config.issuers = vec![issuer];
    config
}

/// Status, code and whole answer of a chat request with this token or key.
async fn ask(gateway: &Running, token: &str) -> (u16, String, Value) {
    let request = gateway.client.post(gateway.url("/v1/chat/completions")).bearer_auth(token);
    let response = request.json(&chat("hello")).send().await.unwrap();
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["error"]["code"].as_str().unwrap_or_default().to_owned(), body)
}

#[tokio::test]
async fn a_token_of_the_issuer_is_let_in_and_stays_at_the_door() {
    let signer = Signer::new("1");
    let issuer = Issuer::start(&[&signer]).await;
    let engines = engines(1).await;
    let gateway = Running::start(with(issuer.config(), config(vec![service(&engines)])));
    let token = signer.sign(&issuer.claims());
    let request = gateway.client.post(gateway.url("/v1/chat/completions")).bearer_auth(&token);
    let request =
        request.header("x-wharf-priority", "system").header("x-gateway-destination-endpoint", "a:1");
    assert_eq!(request.json(&chat("hello")).send().await.unwrap().status(), 200);
    let seen = &engines[0].generation_requests()[0];
    for spoofed in ["authorization", "x-wharf-priority", "x-gateway-destination-endpoint"] {
        assert_eq!(seen.header(spoofed), "", "{spoofed}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn whatever_is_wrong_with_a_token_is_401_in_openais_form() {
    let (signer, stranger) = (Signer::new("1"), Signer::new("2"));
    let thief = Signer { id: "1", ..Signer::new("1") };
    let issuer = Issuer::start(&[&signer]).await;
    let engines = engines(1).await;
    let gateway = Running::start(with(issuer.config(), config(vec![service(&engines)])));
    let good = issuer.claims();
    let changed = |claim: &str, value: Value| {
        let mut claims = good.clone();
        claims[claim] = value;
        signer.sign(&claims)
    };
    let signed = signer.sign(&good);
    let parts: Vec<&str> = signed.split('.').collect();
    // {"alg":"none"}
    let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", parts[1]);
    let cases = [
        ("audience", changed("aud", json!("other")), "the token's audience is not this service"),
        ("expired", changed("exp", json!(now() - 60)), "the token has expired"),
        ("early", changed("nbf", json!(now() + 600)), "the token is not valid yet"),
        ("issuer", changed("iss", json!("https://other.example")), "the token's issuer is not accepted here"),
        ("key", stranger.sign(&good), "the token's key is not one of its issuer's"),
        ("signature", thief.sign(&good), "the token's signature does not fit"),
        ("none", unsigned, "the token's algorithm is not accepted here"),
        ("garbage", "eyJ.eyJ.".to_owned(), "the token is not a JSON Web Token"),
        ("a key", "sk-none".to_owned(), "the API key is not known to this server"),
    ];
    for (what, token, message) in cases {
        let (status, code, body) = ask(&gateway, &token).await;
        assert_eq!((status, code.as_str()), (401, "invalid_api_key"), "{what}: {body}");
        assert_eq!(body["error"]["message"], message, "{what}");
        assert_eq!(body["error"]["type"], "authentication_error", "{what}: {body}");
    }
    let (status, _) = gateway.ask(&chat("hello")).await;
    assert_eq!(status, 401, "issuers alone close a service");
    assert_eq!(engines[0].stats().received, 0);
    gateway.stop().await;
}

#[tokio::test]
async fn keys_and_tokens_are_both_accepted_except_where_a_service_has_keys_of_its_own() {
    let signer = Signer::new("1");
    let issuer = Issuer::start(&[&signer]).await;
    let engines = engines(1).await;
    let folder = tempfile::tempdir().unwrap();
    let keys = |name: &str, key: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, key).unwrap();
        Some(path)
    };
    engines[0].configure(|engine| engine.adapters = vec!["own".to_owned()]);
    let mut own = service(&engines);
    (own.name, own.models) = ("demo/own".to_owned(), vec!["own".to_owned()]);
    own.api_keys = keys("own", "own-key\n");
    let mut config = with(issuer.config(), config(vec![service(&engines), own]));
    config.api_keys = keys("all", "right-key\n");
    let gateway = Running::start(config);
    let token = signer.sign(&issuer.claims());
    let statuses = async |model: &str| {
        let mut statuses = Vec::new();
        for shown in [token.as_str(), "right-key", "own-key"] {
            let mut body = chat("hello");
            body["model"] = model.into();
            let request = gateway.client.post(gateway.url("/v1/chat/completions")).bearer_auth(shown);
            statuses.push(request.json(&body).send().await.unwrap().status().as_u16());
        }
        statuses
    };
    assert_eq!(statuses("fake-model").await, [200, 200, 401]);
    assert_eq!(statuses("own").await, [401, 401, 200]);
    gateway.stop().await;
}

#[tokio::test]
async fn an_issuers_new_key_counts_without_a_restart_and_its_old_one_ends() {
    let (old, new) = (Signer::new("1"), Signer::new("2"));
    let issuer = Issuer::start(&[&old]).await;
    let engines = engines(1).await;
    let gateway = Running::start(with(issuer.config(), config(vec![service(&engines)])));
    let (by_old, by_new) = (old.sign(&issuer.claims()), new.sign(&issuer.claims()));
    assert_eq!(ask(&gateway, &by_old).await.0, 200);
    assert_eq!(ask(&gateway, &by_new).await.0, 401);
    issuer.publish(&[&new]);
    assert_eq!(ask(&gateway, &by_new).await.0, 200);
    assert_eq!(ask(&gateway, &by_old).await.0, 401);
    // What is known holds while the issuer is away.
    issuer.away.store(true, Ordering::SeqCst);
    assert_eq!(ask(&gateway, &by_new).await.0, 200);
    gateway.stop().await;
}

#[tokio::test]
async fn nobody_passes_until_the_issuers_keys_are_there() {
    let signer = Signer::new("1");
    let issuer = Issuer::start(&[&signer]).await;
    issuer.away.store(true, Ordering::SeqCst);
    let engines = engines(1).await;
    let gateway = Running::start(with(issuer.config(), config(vec![service(&engines)])));
    let token = signer.sign(&issuer.claims());
    let request = gateway.client.post(gateway.url("/v1/chat/completions")).bearer_auth(&token);
    let response = request.json(&chat("hello")).send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(engines[0].stats().received, 0);
    issuer.away.store(false, Ordering::SeqCst);
    assert_eq!(ask(&gateway, &token).await.0, 200);
    gateway.stop().await;
}

#[tokio::test]
async fn claims_say_which_models_and_how_much() {
    let signer = Signer::new("1");
    let issuer = Issuer::start(&[&signer]).await;
    let engines = engines(1).await;
    let two = Limits { requests_per_minute: Some(2), ..Limits::default() };
    let trial = Class { limits: two, ..Class::default() };
    let mut settings = issuer.config();
    settings.models_claim = Some("models".to_owned());
    settings.class_claim = Some("tier".to_owned());
    settings.classes = [("trial".to_owned(), trial)].into();
    let gateway = Running::start(with(settings, config(vec![service(&engines)])));
    let signed = |models: &str, tier: &str, subject: &str| {
        let mut claims = issuer.claims();
        (claims["models"], claims["tier"], claims["sub"]) = (json!([models]), json!(tier), json!(subject));
        signer.sign(&claims)
    };
    let (status, code, _) = ask(&gateway, &signed("other", "", "bob")).await;
    assert_eq!((status, code.as_str()), (403, "model_not_allowed"));
    let mut statuses = Vec::new();
    for subject in ["ann", "ann", "ann", "eve"] {
        statuses.push(ask(&gateway, &signed("fake-model", "trial", subject)).await.0);
    }
    assert_eq!(statuses, [200, 200, 429, 200], "limits are each caller's own");
    gateway.stop().await;
}
