//! Ids that will be others after a restart, as far as their look tells.

use super::{Config, ServiceConfig};
use crate::model::ServiceName;
use crate::model::plan::Binding;

impl Config {
    /// Services whose binding will name nobody once they have restarted, with what to write in its place.
    pub fn random_ids(&self) -> Vec<(ServiceName, String)> {
        let of = |service: &ServiceConfig| {
            let said = service.bindings.iter().filter_map(|binding| self.random_id(binding));
            said.map(|says| (service.service.clone(), says)).collect::<Vec<_>>()
        };
        self.host.services.values().flat_map(of).collect()
    }

    /// The same of one binding.
    pub fn random_id(&self, binding: &Binding) -> Option<String> {
        let Binding { registry, id, .. } = binding;
        let finds = self.host.registries.get(registry).is_some_and(|found| found.finds_by_address());
        (finds && looks_random(id)).then(|| {
            format!(
                "the id `{id}` looks random; if the instance gets another id at each start, write `{{ registry: \
                 {registry}, service: NAME, address: \"IP:PORT\" }}` in its place"
            )
        })
    }
}

/// A word of twelve hexadecimal digits or more: a UUID, `${random.value}` or `${random.long}` of Spring, a time in
/// milliseconds, the host's name in a container.
fn looks_random(id: &str) -> bool {
    let random = |word: &str| {
        word.len() >= 12 && word.bytes().all(|b| b.is_ascii_hexdigit()) && word.bytes().any(|b| b.is_ascii_digit())
    };
    id.split(|c: char| !c.is_ascii_alphanumeric()).any(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_looks_random_where_a_word_of_it_is_long_and_hexadecimal() {
        for (id, random) in [
            ("rpc-order-1", false),
            ("rpc-order/bj1-03:rpc-order:7801", false),
            ("rpc-order-10-0-0-1-7801", false),
            ("facade-decade", false),
            ("deadbeefcafe", false),
            ("rpc-order at 10.0.0.1:7801", false),
            ("rpc-order:8bfc5b1e2a08f9e2c1d87c2c5a3b9d10", true),
            ("rpc-order-3f0c1b9a-7c1e-4d9f-8c46-5a1b2c3d4e5f", true),
            ("rpc-order/rpc-order:-7046029254386353131", true),
            ("rpc-order-1764457200000", true),
            ("3f2a1b4c5d6e:rpc-order:7801", true),
        ] {
            assert_eq!(looks_random(id), random, "{id}");
        }
    }
}
