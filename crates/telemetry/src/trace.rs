//! Where a request is in its trace, and the spans that are left of it. How they leave the process is somebody else's business: a [`Tracer`]
//! gets a function for that.
//!
//! Contexts are W3C's `traceparent`. Without a function nothing is made up: a client's context is read for the log and goes on as it came.
//! Whether a new trace is kept is decided once, at its beginning, as OpenTelemetry's samplers do; a parent's decision holds for its children.

mod context;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

pub use context::Context;

/// Which traces are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// A parent's decision counts where there is one.
    pub follows_parent: bool,
    /// Share of the other traces, from 0 to 1.
    pub ratio: f64,
}

impl Sampler {
    /// Everything, unless a parent says no.
    pub const ALL: Sampler = Sampler { follows_parent: true, ratio: 1.0 };

    /// The same for a trace in every process.
    pub fn keeps(self, trace_id: u128, parent: Option<Context>) -> bool {
        match parent {
            Some(parent) if self.follows_parent => parent.sampled,
            // As other SDKs do it: the id's lower 63 bits are compared with the ratio.
            _ => ((trace_id as u64 >> 1) as f64) < self.ratio * (1u64 << 63) as f64,
        }
    }
}

/// What a span stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request that is answered.
    Server,
    /// A part of that.
    Internal,
}

/// A span that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Its trace and its own id.
    pub context: Context,
    /// The id of the span above it, and whether that is another process's.
    pub parent: Option<(u64, bool)>,
    /// Of few different ones.
    pub name: String,
    /// What it stands for.
    pub kind: Kind,
    /// When it began.
    pub start: SystemTime,
    /// When it was over.
    pub end: SystemTime,
    /// Names are OpenTelemetry's where it has one.
    pub attributes: Vec<(&'static str, Value)>,
    /// What went wrong.
    pub error: Option<String>,
}

/// A value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A number of things.
    Count(i64),
    /// A measure.
    Real(f64),
    /// Several texts.
    Texts(Vec<String>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<u64> for Value {
    fn from(count: u64) -> Value {
        Value::Count(i64::try_from(count).unwrap_or(i64::MAX))
    }
}

impl From<f64> for Value {
    fn from(real: f64) -> Value {
        Value::Real(real)
    }
}

/// Begins traces. Clones are the same one. The default keeps nothing.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Kept>>);

struct Kept {
    sampler: Sampler,
    leave: Box<dyn Fn(Span) + Send + Sync>,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Tracer(on)" } else { "Tracer(off)" })
    }
}

impl Tracer {
    /// `leave` gets every span that is kept, on whatever thread it ends; it must not wait.
    pub fn new(sampler: Sampler, leave: impl Fn(Span) + Send + Sync + 'static) -> Tracer {
        Tracer(Some(Arc::new(Kept { sampler, leave: Box::new(leave) })))
    }

    /// A request comes, with this header.
    pub fn begin(&self, traceparent: Option<&[u8]>) -> Trace {
        let parent = traceparent.and_then(Context::parse);
        let Some(kept) = &self.0 else {
            return Trace { parent, own: None, started: None, tracer: Tracer(None) };
        };
        let trace_id = parent.map_or_else(context::new_trace_id, |parent| parent.trace_id);
        let sampled = kept.sampler.keeps(trace_id, parent);
        let own = Context { trace_id, span_id: context::new_span_id(), sampled };
        let started = Some((Instant::now(), SystemTime::now()));
        Trace { parent, own: Some(own), started, tracer: self.clone() }
    }
}

/// A request in its trace.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    parent: Option<Context>,
    /// None where no traces are kept.
    own: Option<Context>,
    /// The same moment on two clocks.
    started: Option<(Instant, SystemTime)>,
    tracer: Tracer,
}

impl Trace {
    /// What lines of the log name: the request's own context, or the client's where no traces are kept.
    pub fn context(&self) -> Option<Context> {
        self.own.or(self.parent)
    }

    /// The header for whom the request goes on to. None where the client's goes on as it came.
    pub fn traceparent(&self) -> Option<String> {
        self.own.map(Context::header)
    }

    /// Whether its spans are kept: else nobody needs to gather attributes.
    pub fn is_kept(&self) -> bool {
        self.own.is_some_and(|own| own.sampled)
    }

    /// The request is over: its span, and those of its parts. Each part is a name, when it began and how long it took.
    pub fn end(&self, ended: Ended, parts: impl IntoIterator<Item = Part>) {
        let (Some(kept), Some(own), Some((instant, time))) = (&self.tracer.0, self.own, self.started) else {
            return;
        };
        if !own.sampled {
            return;
        }
        // One clock for all times of a request: the other may be set meanwhile.
        let at = |when: Instant| time + when.saturating_duration_since(instant);
        for Part { name, began, took, attributes } in parts {
            let context = Context { span_id: context::new_span_id(), ..own };
            let (start, end) = (at(began), at(began) + took);
            let parent = Some((own.span_id, false));
            (kept.leave)(Span {
                context,
                parent,
                name: name.to_owned(),
                kind: Kind::Internal,
                start,
                end,
                attributes,
                error: None,
            });
        }
        let Ended { name, attributes, error } = ended;
        (kept.leave)(Span {
            context: own,
            parent: self.parent.map(|parent| (parent.span_id, true)),
            name,
            kind: Kind::Server,
            start: time,
            end: at(Instant::now()),
            attributes,
            error,
        });
    }
}

/// What is said of a request that is over.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    /// The span's name, of few different ones.
    pub name: String,
    /// Its attributes.
    pub attributes: Vec<(&'static str, Value)>,
    /// What went wrong.
    pub error: Option<String>,
}

/// A part of a request.
#[derive(Clone, Debug)]
pub struct Part {
    /// What it was.
    pub name: &'static str,
    /// When it began.
    pub began: Instant,
    /// How long it took.
    pub took: Duration,
    /// Its attributes.
    pub attributes: Vec<(&'static str, Value)>,
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// A tracer, and what has left it.
    fn recorder(sampler: Sampler) -> (Tracer, Arc<Mutex<Vec<Span>>>) {
        let spans = Arc::new(Mutex::new(Vec::new()));
        let left = Arc::clone(&spans);
        (Tracer::new(sampler, move |span| left.lock().unwrap().push(span)), spans)
    }

    #[test]
    fn without_a_function_a_clients_context_is_for_the_log_and_goes_on_as_it_came() {
        let trace = Tracer::default().begin(Some(PARENT.as_bytes()));
        assert_eq!(trace.context().unwrap().header(), PARENT);
        assert_eq!((trace.traceparent(), trace.is_kept()), (None, false));
        assert!(Tracer::default().begin(None).context().is_none());
    }

    #[test]
    fn a_request_is_a_span_below_its_clients_with_its_parts_below_it() {
        let (tracer, spans) = recorder(Sampler::ALL);
        let trace = tracer.begin(Some(PARENT.as_bytes()));
        let own = trace.context().unwrap();
        assert_eq!(trace.traceparent().unwrap(), own.header());
        let part = Part {
            name: "queue",
            began: Instant::now(),
            took: Duration::from_millis(5),
            attributes: Vec::new(),
        };
        trace.end(Ended { name: "chat tiny".to_owned(), ..Ended::default() }, [part]);
        let spans = spans.lock().unwrap();
        let [part, request] = spans.as_slice() else { panic!("{spans:?}") };
        assert_eq!((request.context, request.parent), (own, Some((0xb7ad_6b71_6920_3331, true))));
        assert_eq!((part.context.trace_id, part.parent), (own.trace_id, Some((own.span_id, false))));
        assert_eq!(part.end.duration_since(part.start).unwrap(), Duration::from_millis(5));
        assert!(request.start <= part.start && request.end >= request.start);
    }

    #[test]
    fn a_parents_decision_holds_and_a_ratio_is_for_the_others() {
        let (tracer, spans) = recorder(Sampler { follows_parent: true, ratio: 0.0 });
        assert!(!tracer.begin(None).is_kept());
        let kept = tracer.begin(Some(PARENT.as_bytes()));
        assert!(kept.is_kept());
        let (tracer, _) = recorder(Sampler::ALL);
        let dropped = tracer.begin(Some(PARENT.replace("-01", "-00").as_bytes()));
        assert!(!dropped.is_kept() && dropped.traceparent().unwrap().ends_with("-00"));
        dropped.end(Ended::default(), []);
        assert!(spans.lock().unwrap().is_empty());
        let half = Sampler { follows_parent: false, ratio: 0.5 };
        assert!(
            half.keeps(u128::from(u64::MAX / 4), None) && !half.keeps(u128::from(u64::MAX / 4 * 3), None)
        );
        let many = (0..10_000).filter(|_| half.keeps(context::new_trace_id(), None)).count();
        assert!((4_000..6_000).contains(&many), "{many}");
    }
}
