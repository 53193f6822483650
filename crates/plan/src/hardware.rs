//! Decides what a GPU product is: how much memory it has, how fast that is, how much it multiplies.
//!
//! The table is data. Memory is what `nvidia-smi` shows in total (and the label `nvidia.com/gpu.memory` repeats); bandwidth and
//! rates are those of the vendors' data sheets, rates without sparsity: where a sheet gives only those with it, half of them.

mod products;

use serde::Serialize;
use thiserror::Error;

pub use products::PRODUCTS;

use crate::types::Arithmetic;

/// A GPU product.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Product {
    /// Name as the label `nvidia.com/gpu.product` has it (`amd.com/gpu.product-name` for AMD).
    pub name: String,
    /// Bytes of memory.
    pub memory: u64,
    /// Speeds; `None` for a product that the table does not know.
    pub speed: Option<Speed>,
}

/// What a product can do, by its data sheet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Bytes of memory read a second.
    pub bandwidth: f64,
    /// Operations a second on half precision or bfloat16, dense; a multiply-add is two.
    pub half: f64,
    /// On E4M3, where tensor cores have it.
    pub fp8: Option<f64>,
    /// On signed bytes, where tensor cores have it.
    pub int8: Option<f64>,
    /// Bytes a second between two of them in one host, both directions together.
    pub link: f64,
}

impl Speed {
    /// Operations a second in `arithmetic`, or in half precision where there is none: weights are widened then.
    pub fn operations(&self, arithmetic: Arithmetic) -> f64 {
        match arithmetic {
            Arithmetic::Half => self.half,
            Arithmetic::Fp8 => self.fp8.unwrap_or(self.half),
            Arithmetic::Int8 => self.int8.unwrap_or(self.half),
        }
    }
}

/// A name that is no product's.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{name:?} is no GPU that is known; there are {known}")]
pub struct UnknownProduct {
    /// The name.
    pub name: String,
    /// Names that there are.
    pub known: String,
}

impl Product {
    /// Every product of the table.
    pub fn all() -> Vec<Product> {
        PRODUCTS.iter().map(products::Row::product).collect()
    }

    /// The product that is called `name`: in full as in the label, or so much of it that no other is meant, whatever its case and
    /// separators (`h200`, `L4`, `a100-sxm4-80gb`, `rtx 4090`).
    ///
    /// # Errors
    /// When no product is called so, or several are.
    pub fn find(name: &str) -> Result<Product, UnknownProduct> {
        let wanted = plain(name);
        let exact = |row: &&products::Row| plain(row.name) == wanted || row.short == wanted;
        let within = |row: &&products::Row| !wanted.is_empty() && plain(row.name).contains(&wanted);
        let found = PRODUCTS.iter().find(exact).or_else(|| {
            let mut matching = PRODUCTS.iter().filter(within);
            matching.next().filter(|_| matching.next().is_none())
        });
        let unknown = || {
            let candidates: Vec<&str> = PRODUCTS.iter().filter(within).map(|row| row.name).collect();
            let all = || PRODUCTS.iter().map(|row| row.name).collect();
            let known: Vec<&str> = if candidates.is_empty() { all() } else { candidates };
            UnknownProduct { name: name.to_owned(), known: known.join(", ") }
        };
        found.map(products::Row::product).ok_or_else(unknown)
    }

    /// The product of a node's labels. Of a product that the table does not know, or a slice of one, only the memory is known, and
    /// only if the label says it.
    pub fn of_labels(name: &str, memory_mib: Option<u64>) -> Option<Product> {
        let whole = name.trim_end_matches("-SHARED");
        let known =
            PRODUCTS.iter().find(|row| row.name.eq_ignore_ascii_case(whole)).map(products::Row::product);
        let memory = memory_mib.map(|mib| mib.saturating_mul(1 << 20));
        match (known, memory) {
            (Some(known), None) => Some(known),
            (Some(known), Some(memory)) => Some(Product { memory, ..known }),
            (None, Some(memory)) => Some(Product { name: name.to_owned(), memory, speed: None }),
            (None, None) => None,
        }
    }
}

/// Letters and digits in lower case.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_found_by_as_much_of_their_name_as_tells_them_apart() {
        let name = |text: &str| Product::find(text).map(|product| product.name).map_err(|e| e.known);
        for row in PRODUCTS {
            assert_eq!(name(row.name).as_deref(), Ok(row.name));
            assert_eq!(name(row.short).as_deref(), Ok(row.name));
        }
        assert_eq!(name("h200").as_deref(), Ok("NVIDIA-H200"));
        assert_eq!(name("rtx 4090").as_deref(), Ok("NVIDIA-GeForce-RTX-4090"));
        assert_eq!(name("A100-SXM4-80GB").as_deref(), Ok("NVIDIA-A100-SXM4-80GB"));
        assert!(name("a100-sxm4").unwrap_err().contains("40GB"));
        assert!(name("abacus").unwrap_err().contains("NVIDIA-L40S"));
    }

    #[test]
    fn labels_say_more_than_the_table_about_memory() {
        let of = |name, memory| Product::of_labels(name, memory);
        assert_eq!(of("NVIDIA-L4", Some(1000)).unwrap().memory, 1000 << 20);
        assert!(of("Tesla-T4-SHARED", None).unwrap().speed.is_some());
        assert_eq!(of("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", Some(4864)).unwrap().speed, None);
        assert_eq!(of("Abacus", None), None);
    }
}
