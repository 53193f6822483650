//! Who may read metrics: what the cluster says. It is asked who shows a token (TokenReview) and what somebody may (SubjectAccessReview); what it
//! said holds for a few seconds.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderMap;
use kube::Client;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::caller::{ANONYMOUS, Caller, FrontProxy, User};

/// How long an answer holds. Kubernetes' own servers hold a yes for five minutes and a no for half a minute.
const HOLDS: Duration = Duration::from_secs(10);
/// Answers that are remembered.
const MOST: usize = 4096;

/// What somebody is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    /// The token is nobody's.
    Unknown,
    /// This user may not, for this reason if the cluster gave one.
    Forbidden(String, String),
}

/// Asks the cluster.
pub(crate) struct Guard {
    client: Client,
    front_proxy: ArcSwap<FrontProxy>,
    users: Remembered<String, Option<User>>,
    rights: Remembered<(User, String), Result<(), String>>,
}

impl Guard {
    pub(crate) fn new(client: Client) -> Guard {
        let (users, rights) = (Remembered::default(), Remembered::default());
        Guard { client, front_proxy: ArcSwap::default(), users, rights }
    }

    /// Believes this front proxy from now on.
    pub(crate) fn believe(&self, front_proxy: FrontProxy) {
        self.front_proxy.store(Arc::new(front_proxy));
    }

    /// Whether whoever sent this may do what the attributes say.
    ///
    /// # Errors
    /// When the cluster does not answer: then nobody may.
    pub(crate) async fn judge(
        &self,
        certificate: Option<&[u8]>,
        headers: &HeaderMap,
        attributes: &Value,
    ) -> Result<Verdict, kube::Error> {
        let caller = self.front_proxy.load().caller(certificate, headers);
        let user = match caller {
            Caller::User(user) => user,
            Caller::Token(token) => match self.user(token).await? {
                Some(user) => user,
                None => return Ok(Verdict::Unknown),
            },
            Caller::Nobody => User {
                name: ANONYMOUS.to_owned(),
                groups: vec!["system:unauthenticated".to_owned()],
                ..User::default()
            },
        };
        let key = (user, attributes.to_string());
        let allowed = match self.rights.get(&key) {
            Some(known) => known,
            None => {
                let allowed = self.ask(&key.0, attributes).await?;
                self.rights.put(key.clone(), allowed.clone());
                allowed
            }
        };
        Ok(match allowed {
            Ok(()) => Verdict::Allowed,
            Err(why) => Verdict::Forbidden(key.0.name, why),
        })
    }

    async fn user(&self, token: String) -> Result<Option<User>, kube::Error> {
        if let Some(known) = self.users.get(&token) {
            return Ok(known);
        }
        let spec = json!({"token": token});
        let status = self.review("authentication.k8s.io", "TokenReview", "tokenreviews", spec).await?;
        let user = User::of_review(&status);
        self.users.put(token, user.clone());
        Ok(user)
    }

    async fn ask(&self, user: &User, attributes: &Value) -> Result<Result<(), String>, kube::Error> {
        let mut spec = user.to_review();
        spec.extend(attributes.as_object().cloned().unwrap_or_default());
        let kind = ("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews");
        let status = self.review(kind.0, kind.1, kind.2, spec.into()).await?;
        let why = || status["reason"].as_str().unwrap_or_default().to_owned();
        Ok(if status["allowed"] == true { Ok(()) } else { Err(why()) })
    }

    /// Posts a review, and returns its status.
    async fn review(&self, group: &str, kind: &str, plural: &str, spec: Value) -> Result<Value, kube::Error> {
        let review = json!({"apiVersion": format!("{group}/v1"), "kind": kind, "spec": spec});
        let body = serde_json::to_vec(&review).map_err(kube::Error::SerdeError)?;
        let request = http::Request::post(format!("/apis/{group}/v1/{plural}"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(kube::Error::HttpError)?;
        let answered: Value = self.client.request(request).await?;
        Ok(answered["status"].clone())
    }
}

/// Answers for a few seconds.
struct Remembered<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Remembered(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> Remembered<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (when, value) = known.get(key)?;
        (when.elapsed() < HOLDS).then(|| value.clone())
    }

    fn put(&self, key: K, value: V) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.retain(|_, (when, _)| when.elapsed() < HOLDS);
        }
        // A flood of strangers must not cost memory.
        if known.len() < MOST {
            known.insert(key, (Instant::now(), value));
        }
    }
}
