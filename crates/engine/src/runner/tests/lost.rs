//! A device that is gone takes the engine with it, and nobody waits for it.

use super::*;

#[test]
fn a_lost_device_ends_every_request_and_stops_the_engine() {
    let gone = || Err(BackendError::Lost("rank 1 is gone".into()));
    let (reached, hears) = channel();
    let trap: Trap = Box::new(move |chunks| {
        // Once all three are there, two of them running: the third waits for blocks.
        reached.send(chunks.len()).unwrap();
        if chunks.len() == 2 { gone() } else { Ok(()) }
    });
    let engine = engine_with(20, CONFIG, trap);
    let requests: Vec<_> = (0..3).map(|_| request(&[1; 150], 40)).collect();
    let streams: Vec<_> = requests
        .into_iter()
        .map(|(request, events)| {
            engine.submit(request).unwrap();
            events
        })
        .collect();
    for events in &streams {
        assert_eq!(outcome(events).1, Event::Lost { message: "rank 1 is gone".into() });
    }
    assert!(hears.iter().any(|chunks| chunks == 2));
    assert!(engine.snapshot().stopped);
    assert_eq!(engine.submit(request(&[1], 1).0), Err(SubmitError::Stopped));
}
