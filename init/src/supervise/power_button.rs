//! The power button: the host's one way to ask for an end.

use alloc::format;
use alloc::vec::Vec;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io;

use crate::file;

const DIRECTORY: &str = "/dev/input";

/// Bytes of `struct input_event` (`linux/input.h`) on a 64-bit machine: time,
/// type, code, value.
const EVENT_SIZE: usize = 24;
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
const PRESSED: i32 = 1;

/// Opens every input device. A machine without any has no power button.
pub(super) fn open_devices() -> io::Result<Vec<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let names = match file::names(DIRECTORY, "event") {
        Err(io::Errno::NOENT) => return Ok(Vec::new()),
        other => other?,
    };
    let paths = names.iter().map(|name| format!("{DIRECTORY}/{name}"));
    paths
        .map(|path| rustix::fs::open(path, flags, Mode::empty()))
        .collect()
}

/// Takes what the device has to say.
///
/// # Errors
/// The device is gone.
pub(super) fn was_pressed(device: impl AsFd) -> io::Result<bool> {
    let mut buffer = [0; EVENT_SIZE * 16];
    match io::read(device, &mut buffer[..]) {
        Ok(0) => Err(io::Errno::NODEV),
        Ok(length) => Ok(has_press(buffer.get(..length).unwrap_or_default())),
        Err(io::Errno::AGAIN) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn has_press(events: &[u8]) -> bool {
    let (events, _) = events.as_chunks::<EVENT_SIZE>();
    events.iter().any(|event| {
        let [.., t0, t1, c0, c1, v0, v1, v2, v3] = *event;
        u16::from_ne_bytes([t0, t1]) == EV_KEY
            && u16::from_ne_bytes([c0, c1]) == KEY_POWER
            && i32::from_ne_bytes([v0, v1, v2, v3]) == PRESSED
    })
}

#[cfg(test)]
mod tests {
    use super::{EV_KEY, EVENT_SIZE, KEY_POWER, PRESSED, has_press};
    use alloc::vec::Vec;

    fn event(kind: u16, code: u16, value: i32) -> Vec<u8> {
        let mut event = [0xaa; EVENT_SIZE - 8].to_vec();
        event.extend(kind.to_ne_bytes());
        event.extend(code.to_ne_bytes());
        event.extend(value.to_ne_bytes());
        event
    }

    #[test]
    fn only_the_press_of_the_power_key_counts() {
        assert!(has_press(&event(EV_KEY, KEY_POWER, PRESSED)));
        let released = event(EV_KEY, KEY_POWER, 0);
        let repeated = event(EV_KEY, KEY_POWER, 2);
        let other_key = event(EV_KEY, 30, PRESSED);
        let other_type = event(4, KEY_POWER, PRESSED);
        for other in [&released, &repeated, &other_key, &other_type] {
            assert!(!has_press(other), "{other:?}");
        }
        let press = event(EV_KEY, KEY_POWER, PRESSED);
        assert!(has_press(&[other_key, press].concat()));
    }

    #[test]
    fn a_cut_event_is_no_press() {
        assert!(!has_press(
            &event(EV_KEY, KEY_POWER, PRESSED)[..EVENT_SIZE - 1]
        ));
        assert!(!has_press(&[]));
    }
}
