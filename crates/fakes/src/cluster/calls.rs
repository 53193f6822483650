//! Requests that the API server has had, and those that it is told to answer wrongly.

use std::time::Duration;

use serde_json::Value;

/// A request to the API server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Call {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, as RBAC has them; empty for discovery.
    pub verb: &'static str,
    /// `apps`; empty for the core group.
    pub group: String,
    /// `deployments`; empty for discovery.
    pub plural: String,
    /// `Deployment`; empty for discovery.
    pub kind: String,
    /// Empty for kinds of the cluster, and where all are meant.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// `status`, `scale` or empty.
    pub part: String,
    /// Path and query.
    pub path: String,
    /// Who called.
    pub user_agent: String,
    /// The body, null where there was none or it was not JSON.
    pub body: Value,
    /// How it was answered; 0 while it is not, and where it never was.
    pub code: u16,
}

/// How a request goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Injected {
    /// A `Status` with this code.
    Status(u16),
    /// It is done and answered after this.
    Slow(Duration),
    /// It is never answered, and nothing is done.
    Hang,
    /// The connection is closed, and nothing is done.
    CutBefore,
    /// The connection is closed when it is done: the client cannot know.
    CutAfter,
}

/// Picks calls.
pub(crate) type Fits = Box<dyn FnMut(&Call) -> bool + Send>;

/// Requests that go wrong.
struct Rule {
    times: usize,
    how: Injected,
    fits: Fits,
}

/// Every call so far, and the rules in force.
#[derive(Default)]
pub(crate) struct Calls {
    all: Vec<Call>,
    /// Calls before the first of `all`.
    forgotten: usize,
    rules: Vec<Rule>,
}

impl Calls {
    /// Records a call; the number is for [`Calls::answered`].
    pub(crate) fn add(&mut self, call: Call) -> usize {
        self.all.push(call);
        self.forgotten + self.all.len() - 1
    }

    pub(crate) fn answered(&mut self, number: usize, code: u16) {
        let index = number.checked_sub(self.forgotten);
        if let Some(call) = index.and_then(|index| self.all.get_mut(index)) {
            call.code = code;
        }
    }

    pub(crate) fn all(&self) -> &[Call] {
        &self.all
    }

    pub(crate) fn forget(&mut self) {
        self.forgotten += self.all.len();
        self.all.clear();
    }

    pub(crate) fn fail_when(&mut self, times: usize, how: Injected, fits: Fits) {
        self.rules.extend((times > 0).then_some(Rule { times, how, fits }));
    }

    pub(crate) fn heal(&mut self) {
        self.rules.clear();
    }

    /// How this call goes wrong, if it does; the rule is thereby used up once.
    pub(crate) fn injected(&mut self, call: &Call) -> Option<Injected> {
        let index = self.rules.iter_mut().position(|rule| (rule.fits)(call))?;
        let rule = &mut self.rules[index];
        rule.times -= 1;
        let how = rule.how.clone();
        if rule.times == 0 {
            self.rules.remove(index);
        }
        Some(how)
    }
}
