//! Keys and values in signed bytes: what is stored, and that attention computes with exactly that.

use super::*;

/// A page of one head of 40 elements, a block of 32 and one of 8, into which one position was written; the rest is garbage.
struct Page {
    keys: Vec<i8>,
    values: Vec<i8>,
    scales: Vec<f32>,
}

const HEAD: usize = 40;
const SLOT: usize = 5;
const BLOCKS: usize = 2;

fn written(isa: Isa, k: &[f32; HEAD], v: &[f32; HEAD]) -> Page {
    let mut page = Page {
        keys: vec![i8::MIN; HEAD * PAGE_TOKENS],
        values: vec![i8::MIN; HEAD * PAGE_TOKENS],
        scales: vec![-1.0; 2 * BLOCKS * PAGE_TOKENS],
    };
    let Page { keys, values, scales } = &mut page;
    write_kv(isa, PageMut { keys, values, scales }, SLOT, k, v);
    page
}

impl Page {
    fn key(&self) -> Vec<i8> {
        self.keys.chunks(PAGE_TOKENS).map(|element| element[SLOT]).collect()
    }

    fn value(&self) -> &[i8] {
        &self.values[SLOT * HEAD..][..HEAD]
    }

    /// Of the blocks of the key, then of those of the value.
    fn scales(&self) -> [[f32; BLOCKS]; 2] {
        std::array::from_fn(|kind| {
            std::array::from_fn(|block| self.scales[(kind * BLOCKS + block) * PAGE_TOKENS + SLOT])
        })
    }
}

/// The definition: codes, and the scale of each 32.
fn quantized(x: &[f32]) -> (Vec<i8>, Vec<f32>) {
    let mut codes = Vec::new();
    let scales = x.chunks(32).map(|x| {
        let most = x.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        codes.extend(x.iter().map(|x| (x * (127.0 / most)).round_ties_even() as i8));
        most / 127.0
    });
    let scales = scales.collect();
    (codes, scales)
}

#[test]
fn blocks_of_a_key_and_a_value_become_bytes_with_a_scale_each() {
    let mut noise = Noise(21);
    for isa in Isa::available() {
        let k: [f32; HEAD] = std::array::from_fn(|_| 9.0 * noise.float());
        let v: [f32; HEAD] = std::array::from_fn(|_| 1e-3 * noise.float());
        let page = written(isa, &k, &v);
        let ((key, key_scales), (value, value_scales)) = (quantized(&k), quantized(&v));
        assert_eq!((page.key(), page.value()), (key, &value[..]), "{isa}");
        assert_eq!(page.scales().map(Vec::from), [key_scales, value_scales], "{isa}");
        let untouched = |codes: &[i8]| codes.iter().filter(|code| **code == i8::MIN).count();
        assert_eq!((untouched(&page.keys), untouched(&page.values)), (15 * HEAD, 15 * HEAD), "{isa}");
        let untouched = page.scales.iter().filter(|scale| **scale == -1.0).count();
        assert_eq!(untouched, 2 * BLOCKS * 15, "{isa}");
    }
}

#[test]
fn a_large_element_coarsens_its_block_only() {
    for isa in Isa::available() {
        let mut x = [1.0; HEAD];
        x[35] = 1000.0;
        let page = written(isa, &x, &x);
        let key = page.key();
        assert_eq!((key[31], key[32], key[35]), (127, 0, 127), "{isa}");
        assert_eq!(page.scales(), [[1.0 / 127.0, 1000.0 / 127.0]; 2], "{isa}");
        assert_eq!((page.value()[31], page.value()[32], page.value()[35]), (127, 0, 127), "{isa}");
    }
}

#[test]
fn extremes_become_127_and_ties_round_to_even() {
    for isa in Isa::available() {
        let mut k = [0.0; HEAD];
        (k[0], k[1], k[17], k[31], k[38], k[39]) = (0.5, 1.5, 127.0, -127.0, 2.5, -127.0);
        let page = written(isa, &k, &k.map(|x| -x));
        let at = |codes: &[i8]| [0, 1, 17, 31, 38, 39].map(|i| codes[i]);
        assert_eq!(at(&page.key()), [0, 2, 127, -127, 2, -127], "{isa}");
        assert_eq!(at(page.value()), [0, -2, -127, 127, -2, 127], "{isa}");
        assert_eq!(page.scales(), [[1.0; BLOCKS]; 2], "{isa}");
    }
}

#[test]
fn what_is_no_number_poisons_its_block_and_no_other() {
    for isa in Isa::available() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 15, 16, 31, 32, 39] {
                let (ones, mut x) = ([1.0; HEAD], [1.0; HEAD]);
                x[at] = bad;
                for (kind, page) in [written(isa, &x, &ones), written(isa, &ones, &x)].iter().enumerate() {
                    for (found, scales) in page.scales().iter().enumerate() {
                        for (block, scale) in scales.iter().enumerate() {
                            let spoilt = (found, block) == (kind, at / 32);
                            let right = if spoilt { scale.is_nan() } else { *scale == 1.0 / 127.0 };
                            assert!(right, "{isa} {bad} at {at}: {scale} for block {block}");
                        }
                    }
                }
                let value = written(isa, &ones, &x);
                assert_eq!(value.value()[at / 32 * 32], 0, "{isa} {bad} at {at}");
            }
        }
    }
}

#[test]
fn tiny_and_zero_blocks_are_zero() {
    for isa in Isa::available() {
        for x in [0.0, -0.0, 1e-40, 9e-31] {
            let page = written(isa, &[x; HEAD], &[x; HEAD]);
            assert_eq!((page.key(), page.value()), (vec![0; HEAD], &[0; HEAD][..]), "{isa} {x}");
            assert_eq!(page.scales(), [[0.0; BLOCKS]; 2], "{isa} {x}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(48), ..ProptestConfig::default() })]

    #[test]
    fn attention_is_that_over_codes_times_scales(
        seed: u64,
        first in 0..600usize,
        count in 1..20usize,
        group in 1..4usize,
        head_dim in prop_oneof![Just(24usize), Just(32), Just(48), Just(64), Just(80), Just(128)],
        window in prop_oneof![Just(usize::MAX), 1..400usize],
        softcap in prop_oneof![Just(None), Just(Some(20.0f32))],
    ) {
        let mut noise = Noise(seed);
        let q = scaled(&mut noise, count * group, head_dim);
        let queries = Queries { q: &q, group, first, window, softcap };
        let mut cache: Cache<i8> = Cache::new(&mut noise, first + count, head_dim);
        let plain = cache.exact(&queries);
        let found = cache.attend(Isa::detect(), &queries);
        for x in [&mut cache.k, &mut cache.v] {
            for x in x.chunks_mut(head_dim) {
                let (codes, scales) = quantized(x);
                for (i, (x, code)) in x.iter_mut().zip(codes).enumerate() {
                    *x = f32::from(code) * scales[i / 32];
                }
            }
        }
        for ((found, stored), plain) in found.iter().zip(cache.exact(&queries)).zip(plain) {
            prop_assert!((f64::from(*found) - stored).abs() < 5e-6, "{found}, not {stored}");
            // Half a step of 1/127 in the value, and as much in the weights, which moves the mean of values.
            prop_assert!((stored - plain).abs() < 0.02, "{stored} is far from {plain}");
        }
    }
}

#[test]
fn positions_that_are_not_seen_may_hold_anything() {
    let mut noise = Noise(22);
    let q = scaled(&mut noise, 24, 64);
    // One query takes the direct path, eight with three heads each the widened one.
    for (first, rows) in [(300, 3), (293, 24)] {
        let mut cache: Cache<i8> = Cache::new(&mut noise, 320, 64);
        let queries = Queries { q: &q[..rows * 64], group: 3, first, window: 40, softcap: None };
        let want = cache.attend(Isa::detect(), &queries);
        assert!(want.iter().all(|x| x.is_finite()));
        for position in (0..first + 1 - 40).chain(301..320) {
            let (page, slot) = (cache.table[position / PAGE_TOKENS] as usize, position % PAGE_TOKENS);
            // Two blocks of keys, two of values.
            let scales = cache.scales[page * 4 * PAGE_TOKENS..].chunks_mut(PAGE_TOKENS);
            for (scales, bad) in scales.zip([f32::NAN, f32::INFINITY, f32::INFINITY, f32::NAN]) {
                scales[slot] = bad;
            }
        }
        for isa in Isa::available() {
            assert_eq!(bits(&cache.attend(isa, &queries)), bits(&want), "{isa} with {rows} rows");
        }
    }
}

#[test]
fn a_poisoned_block_that_is_seen_shows() {
    let mut noise = Noise(23);
    let mut cache: Cache<i8> = Cache::new(&mut noise, 20, 48);
    let q = scaled(&mut noise, 1, 48);
    let queries = |first| Queries { q: &q, group: 1, first, window: usize::MAX, softcap: None };
    // Position 19 is slot 3 of its page, whose scales are those of two blocks of keys, then of values.
    let page = cache.table[1] as usize * 4 * PAGE_TOKENS;
    let at = |block: usize| page + block * PAGE_TOKENS + 3;
    cache.scales[at(3)] = f32::NAN;
    assert!(cache.attend(Isa::detect(), &queries(18)).iter().all(|x| x.is_finite()));
    let found = cache.attend(Isa::detect(), &queries(19));
    assert!(found[..32].iter().all(|x| x.is_finite()) && found[32..].iter().all(|x| x.is_nan()), "{found:?}");
    cache.scales[at(1)] = f32::NAN;
    assert!(cache.attend(Isa::detect(), &queries(19)).iter().all(|x| x.is_nan()));
}

#[test]
#[should_panic(expected = "scales for the types that have some")]
fn bytes_without_scales_are_refused() {
    let mut noise = Noise(24);
    let cache: Cache<i8> = Cache::new(&mut noise, 1, 16);
    let kv = KvPages { scales: None, ..cache.pages() };
    let queries = Queries { q: &[1.0; 16], group: 1, first: 0, window: usize::MAX, softcap: None };
    attend(Isa::SCALAR, &kv, &queries, &mut Scratch::default(), &mut [0.0; 16]);
}
