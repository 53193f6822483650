//! However a body is written and cut, it is read as a parser reads it; and what has passed of it is what would have been sent of it whole.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::super::*;

/// A body: its members in their order, and its text.
#[derive(Clone, Debug)]
struct Body {
    members: Vec<(String, Value)>,
    text: String,
}

impl Body {
    fn object(&self) -> Map<String, Value> {
        self.members.iter().cloned().collect()
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|(member, _)| member == name)
    }

    /// Cut at some places.
    fn pieces(&self, cuts: &[usize]) -> Vec<Bytes> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (self.text.len() + 1)).collect();
        cuts.extend([0, self.text.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|cut| Bytes::copy_from_slice(&self.text.as_bytes()[cut[0]..cut[1]])).collect()
    }
}

/// Text that a scanner could take for something else.
fn text() -> impl Strategy<Value = String> {
    let characters = select(vec!['"', '\\', '{', '}', '[', ']', ',', ':', ' ', '\n', 'a', 'm', 'é', '🚢']);
    vec(characters, 0..12).prop_map(|characters| characters.into_iter().collect())
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let key = prop_oneof![text(), select(vec!["model".to_owned(), "stream".to_owned()])];
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((key, inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A member as requests have it, or something else of this name.
fn member() -> impl Strategy<Value = (String, Value)> {
    let flag = any::<bool>().prop_map(Value::from);
    let options = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(|usage| json!({"include_usage": usage, "a": [1]})),
        Just(json!({})),
    ];
    let count = (0u64..5).prop_map(Value::from);
    let named = |names: &'static [&'static str], value: BoxedStrategy<Value>| {
        (select(names), value).prop_map(|(name, value)| (name.to_owned(), value))
    };
    prop_oneof![
        2 => named(&["stream"], flag.boxed()),
        2 => named(&["stream_options"], options.boxed()),
        2 => named(&["max_tokens", "max_completion_tokens", "n", "best_of"], count.boxed()),
        2 => named(&["user", "session_id", "prompt_cache_key"], text().prop_map(Value::from).boxed()),
        2 => named(&["messages", "prompt", "input", "tools", "instructions"], value().boxed()),
        1 => (text(), value()),
    ]
}

/// A string as JSON, every character as an escape if so wished.
fn quoted(text: &str, escaped: bool) -> String {
    match escaped {
        true => {
            format!("\"{}\"", text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<String>())
        }
        false => Value::from(text).to_string(),
    }
}

fn body() -> impl Strategy<Value = Body> {
    let blanks = select(vec!["", " ", "\n\t "]);
    let model = (text(), any::<prop::sample::Index>());
    (vec((member(), any::<bool>()), 0..7), model, blanks).prop_map(|(mut members, (model, at), blank)| {
        members.insert(at.index(members.len() + 1), (("model".to_owned(), Value::from(model)), false));
        let mut seen = std::collections::HashSet::new();
        members.retain(|((name, _), _)| seen.insert(name.clone()));
        let written = members.iter().map(|((name, value), escaped)| {
            format!("{}{blank}:{blank}{value}{blank}", quoted(name, *escaped))
        });
        let text = format!("{blank}{{{blank}{}}}{blank}", written.collect::<Vec<_>>().join(","));
        Body { members: members.into_iter().map(|(member, _)| member).collect(), text }
    })
}

fn all(chunks: &Chunks) -> Bytes {
    chunks.get(0..chunks.len())
}

fn push_all(reader: &mut Reader, pieces: &[Bytes]) {
    pieces.iter().for_each(|piece| reader.push(piece.clone()));
}

proptest! {
    #[test]
    fn whatever_its_pieces_a_body_is_read_as_a_parser_reads_it(body in body(), cuts in vec(any::<usize>(), 0..8)) {
        let given: Map<String, Value> = serde_json::from_str(&body.text).unwrap();
        prop_assert_eq!(&given, &body.object());
        let mut reader = Reader::new(b"application/json");
        push_all(&mut reader, &body.pieces(&cuts));
        let call = reader.finish().unwrap();
        let is_true = |value: Option<&Value>| value == Some(&Value::Bool(true));
        let number = |name: &str| given.get(name).and_then(Value::as_u64);
        let named = |name: &&str| given.get(*name).and_then(Value::as_str).filter(|text| !text.is_empty());
        prop_assert_eq!(&call.model, given["model"].as_str().unwrap());
        prop_assert_eq!(call.stream, is_true(given.get("stream")));
        let options = given.get("stream_options");
        prop_assert_eq!(call.wants_usage, is_true(options.and_then(|options| options.get("include_usage"))));
        let answers = number("best_of").or_else(|| number("n")).unwrap_or(1).max(1);
        let longest = LONGEST.iter().find_map(|name| number(name));
        prop_assert_eq!(call.longest, longest.map(|each| each * answers));
        let session = SESSION.iter().find_map(named);
        prop_assert_eq!(call.session, session.map(|name| seed([name.as_bytes()])));
        prop_assert_eq!(all(&call.body()), body.text.as_bytes());
    }

    #[test]
    fn what_has_passed_is_what_would_have_been_sent_whole(
        body in body(),
        cuts in vec(any::<usize>(), 0..8),
        asks in any::<bool>(),
    ) {
        let pieces = body.pieces(&cuts);
        let mut reader = Reader::new(b"application/json");
        let mut first = 0;
        while !reader.is_known() {
            reader.push(pieces[first].clone());
            first += 1;
        }
        let (begun, mut rest) = reader.begin(None).unwrap();
        if asks {
            rest.ask_usage();
        }
        let mut passed = all(&rest.pass().unwrap()).to_vec();
        for piece in &pieces[first..] {
            passed.extend_from_slice(&all(&rest.push(piece.clone()).unwrap()));
        }
        rest.finish().unwrap();

        let mut reader = Reader::new(b"application/json");
        push_all(&mut reader, &pieces);
        let whole = reader.finish().unwrap();
        prop_assert_eq!(&begun.model, &whole.model);
        prop_assert_eq!(rest.hides_usage(), whole.stream && !whole.wants_usage);
        prop_assert_eq!(rest.prompt_bytes(), whole.prompt.bytes);
        if !asks || whole.wants_usage {
            prop_assert_eq!(&passed, body.text.as_bytes());
        }
        let mut given = body.object();
        let mut sent: Map<String, Value> = serde_json::from_slice(&passed).unwrap();
        let (given_options, options) = (given.remove("stream_options"), sent.remove("stream_options"));
        prop_assert_eq!(sent, given, "nothing else changes");
        // Options that are none stay where nobody knew yet that the answer streams.
        let knew = body.place("stream") < body.place("stream_options");
        let are_options = given_options.as_ref().is_some_and(Value::is_object);
        if asks && whole.stream && (given_options.is_none() || are_options || knew) {
            prop_assert_eq!(&options.as_ref().unwrap()["include_usage"], &Value::Bool(true));
        }
        if !whole.stream && body.place("stream").is_some() && knew {
            prop_assert_eq!(&options, &given_options, "who does not want a stream is asked for nothing");
        }
        prop_assert_eq!(options.is_some(), given_options.is_some() || (asks && whole.stream));
        if let (Some(Value::Object(mut options)), Some(Value::Object(mut given))) = (options, given_options) {
            options.remove("include_usage");
            given.remove("include_usage");
            prop_assert_eq!(options, given, "other options stay");
        }
    }

    #[test]
    fn a_body_with_two_models_never_passes_whole(body in body(), cuts in vec(any::<usize>(), 0..8)) {
        let opened = body.text.trim_end().strip_suffix('}').unwrap();
        let twice = Body { text: format!("{opened},\"model\":\"other\"}}"), ..body };
        let mut reader = Reader::new(b"application/json");
        let mut pieces = twice.pieces(&cuts).into_iter();
        while !reader.is_known() {
            match pieces.next() {
                Some(piece) => reader.push(piece),
                // Both were in one piece.
                None => {
                    prop_assert!(reader.finish().is_err());
                    return Ok(());
                }
            }
        }
        let (_, mut rest) = reader.begin(None).unwrap();
        rest.pass().unwrap();
        let refused = pieces.find_map(|piece| rest.push(piece).err());
        prop_assert_eq!(refused.map(|error| error.to_string()), Some("model is given twice".to_owned()));
    }
}
