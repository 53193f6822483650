//! A device that is gone takes the engine with it, and nobody waits for it.

use super::*;

#[test]
fn a_lost_device_ends_every_request_and_stops_the_engine() {
    let (submitted, all_there) = channel();
    let mut waited = false;
    let trap: Trap = Box::new(move |chunks| {
        if !waited {
            all_there.recv().unwrap();
            waited = true;
        }
        // Two are running and the third waits for blocks.
        if chunks.len() == 2 { Err(BackendError::Lost("rank 1 is gone".into())) } else { Ok(()) }
    });
    let config = EngineConfig { prefix_caching: false, ..CONFIG };
    let engine = engine_with(20, config, trap);
    let streams: Vec<_> = (0..3)
        .map(|_| {
            let (request, events) = request(&[1; 150], 40);
            engine.submit(request).unwrap();
            events
        })
        .collect();
    submitted.send(()).unwrap();
    for events in &streams {
        assert_eq!(outcome(events).1, Event::Lost { message: "rank 1 is gone".into() });
    }
    assert!(engine.snapshot().stopped);
    assert_eq!(engine.submit(request(&[1], 1).0), Err(SubmitError::Stopped));
}
