//! Streams, what is recorded of them, and events.

use std::collections::VecDeque;
use std::ffi::{c_float, c_uint, c_ulonglong};
use std::time::Instant;

use super::{cuda, give, on_gpu, state, submit, unrecorded};
use crate::errors::{CAPTURE_INVALIDATED, ILLEGAL_STATE, INVALID_HANDLE, NOT_READY, SUCCESS};
use crate::process::Process;
use crate::stream::{Event, Recording, Stream, Work};

fn elapsed(process: &Process, start: usize, end: usize) -> Result<Option<f32>, c_uint> {
    let time = |event| process.events.get(&event).map(|event| event.happened).ok_or(INVALID_HANDLE);
    let between = |start: Instant, end: Instant| match end.checked_duration_since(start) {
        Some(time) => time.as_secs_f32() * 1e3,
        None => start.duration_since(end).as_secs_f32() * -1e3,
    };
    Ok(time(start)?.zip(time(end)?).map(|(start, end)| between(start, end)))
}

fn give_elapsed(process: &Process, milliseconds: *mut c_float, start: usize, end: usize) -> c_uint {
    match elapsed(process, start, end) {
        Ok(Some(time)) => give!(milliseconds, time),
        Ok(None) => NOT_READY,
        Err(code) => code,
    }
}

cuda! {
    cuStreamCreate(stream: *mut usize, _flags: c_uint)
        |f| unrecorded(f, |process, gpu| {
            let handle = process.handle();
            process.streams.insert(handle, Stream { gpu, waiting: VecDeque::new(), recording: None });
            give!(stream, handle)
        });
    cuStreamDestroy_v2(stream: usize)
        |f| on_gpu(f, |process, gpu| {
            process.finish(stream);
            match process.streams.remove(&stream) {
                None => INVALID_HANDLE,
                Some(_) => state(process, gpu),
            }
        });
    cuStreamSynchronize(stream: usize)
        |f| unrecorded(f, |process, gpu| {
            if !process.streams.contains_key(&stream) {
                return INVALID_HANDLE;
            }
            process.finish(stream);
            state(process, gpu)
        });
    cuStreamBeginCapture_v2(stream: usize, _mode: c_uint)
        |f| on_gpu(f, |process, _| match process.streams.get_mut(&stream) {
            None => INVALID_HANDLE,
            Some(stream) if stream.recording.is_some() => ILLEGAL_STATE,
            Some(stream) => {
                let thread = std::thread::current().id();
                stream.recording = Some(Recording { thread, work: Vec::new(), invalid: false });
                SUCCESS
            }
        });
    cuStreamEndCapture(stream: usize, graph: *mut usize)
        |f| on_gpu(f, |process, _| {
            let Some(found) = process.streams.get_mut(&stream) else { return INVALID_HANDLE };
            match found.recording.take() {
                None => ILLEGAL_STATE,
                Some(recording) if recording.invalid => {
                    give!(graph, 0);
                    CAPTURE_INVALIDATED
                }
                Some(recording) => {
                    let handle = process.handle();
                    process.graphs.insert(handle, recording.work);
                    give!(graph, handle)
                }
            }
        });
    cuStreamIsCapturing(stream: usize, status: *mut c_uint)
        |f| on_gpu(f, |process, _| match process.streams.get(&stream) {
            None => INVALID_HANDLE,
            Some(stream) => give!(status, match &stream.recording {
                None => 0,
                Some(Recording { invalid: false, .. }) => 1,
                Some(Recording { invalid: true, .. }) => 2,
            }),
        });
    cuGraphInstantiateWithFlags(exec: *mut usize, graph: usize, _flags: c_ulonglong)
        |f| unrecorded(f, |process, _| match process.graphs.get(&graph).cloned() {
            None => INVALID_HANDLE,
            Some(work) => {
                let handle = process.handle();
                process.graphs.insert(handle, work);
                give!(exec, handle)
            }
        });
    cuGraphDestroy(graph: usize)
        |f| on_gpu(f, |process, _| process.graphs.remove(&graph).map_or(INVALID_HANDLE, |_| SUCCESS));
    cuGraphExecDestroy(exec: usize)
        |f| on_gpu(f, |process, _| process.graphs.remove(&exec).map_or(INVALID_HANDLE, |_| SUCCESS));
    cuGraphUpload(exec: usize, _stream: usize)
        |f| on_gpu(f, |process, _| if process.graphs.contains_key(&exec) { SUCCESS } else { INVALID_HANDLE });
    cuGraphLaunch(exec: usize, stream: usize)
        |f| on_gpu(f, |process, gpu| match process.graphs.get(&exec).cloned() {
            None => INVALID_HANDLE,
            Some(work) => {
                // A graph that is recorded has a copy of its own.
                let recording = process.streams.get(&stream).is_some_and(|stream| stream.recording.is_some());
                let work = work.into_iter().chain((!recording).then_some(Work::Last(exec)));
                work.map(|work| submit(process, gpu, stream, work)).find(|code| *code != SUCCESS).unwrap_or(SUCCESS)
            }
        });
    cuEventCreate(event: *mut usize, _flags: c_uint)
        |f| on_gpu(f, |process, gpu| {
            let handle = process.handle();
            process.events.insert(handle, Event { gpu, records: 0, waits_for: None, happened: None });
            give!(event, handle)
        });
    cuEventDestroy_v2(event: usize)
        |f| on_gpu(f, |process, _| process.events.remove(&event).map_or(INVALID_HANDLE, |_| SUCCESS));
    cuEventRecord(event: usize, stream: usize)
        |f| on_gpu(f, |process, gpu| {
            let recording = process.streams.get(&stream).is_some_and(|stream| stream.recording.is_some());
            let Some(found) = process.events.get_mut(&event) else { return INVALID_HANDLE };
            let record = (!recording).then(|| {
                (found.records, found.waits_for, found.happened) = (found.records + 1, Some(stream), None);
                found.records
            });
            submit(process, gpu, stream, Work::Record(event, record))
        });
    cuEventSynchronize(event: usize)
        |f| unrecorded(f, |process, gpu| loop {
            match process.events.get(&event).map(|event| event.waits_for) {
                None => return INVALID_HANDLE,
                Some(Some(stream)) if process.advance(stream) => {}
                Some(_) => return state(process, gpu),
            }
        });
    cuEventQuery(event: usize)
        |f| unrecorded(f, |process, _| match process.events.get(&event).map(|event| event.waits_for) {
            None => INVALID_HANDLE,
            Some(None) => SUCCESS,
            Some(Some(stream)) => {
                // Whoever asks again and again gets there.
                process.advance(stream);
                NOT_READY
            }
        });
    cuEventElapsedTime(milliseconds: *mut c_float, start: usize, end: usize)
        |f| on_gpu(f, |process, _| give_elapsed(process, milliseconds, start, end));
    cuEventElapsedTime_v2(milliseconds: *mut c_float, start: usize, end: usize)
        |f| on_gpu(f, |process, _| give_elapsed(process, milliseconds, start, end));
}
