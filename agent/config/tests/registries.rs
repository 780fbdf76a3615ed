//! `registries:` whose services are known by name: what loads, and every word of what does not.

use super::*;
use crate::model::{EtcdLayout, NacosApi, NacosLayout, StandsAt, Tls};

fn login() -> Option<Login> {
    Some(Login { user: "u".into(), password_file: "/run/credentials/unwait/p".into() })
}

#[test]
fn what_is_left_out_has_its_default() {
    let user = "user: u, password_file: \"${CREDENTIALS_DIRECTORY}/p\"";
    let templates = "key: \"/s/{service}/{instance}\", override: \"/o/{service}/{instance}\"";
    let etcd = |value: &str| EtcdLayout {
        key: "/s/{service}/{instance}".into(),
        override_key: "/o/{service}/{instance}".into(),
        value: value.into(),
    };
    let nacos =
        NacosLayout { api: NacosApi::Auto, namespace: None, group: "DEFAULT_GROUP".into(), cluster: "DEFAULT".into() };
    let own =
        NacosLayout { api: NacosApi::V3, namespace: Some("prod".into()), group: "SHOP".into(), cluster: "BJ".into() };
    let servers = |servers: &[&str]| servers.iter().map(ToString::to_string).collect::<Vec<String>>();
    let urls = |url: &str| servers(&[url]);
    for (text, compiled) in [
        (
            format!("etcd: {{ url: \"http://h:2379/\", {user}, {templates} }}"),
            RegistryConfig::Etcd {
                urls: urls("http://h:2379"),
                tls: Tls::default(),
                login: login(),
                layout: etcd(r#"{"disabled":true,"by":"{marker}"}"#),
            },
        ),
        (
            format!("etcd: {{ url: \"http://h:2379\", {templates}, value: \"off {{marker}}\" }}"),
            RegistryConfig::Etcd {
                urls: urls("http://h:2379"),
                tls: Tls::default(),
                login: None,
                layout: etcd("off {marker}"),
            },
        ),
        (
            "zookeeper: { servers: [\"10.0.0.1:2181\"] }".into(),
            RegistryConfig::ZooKeeper {
                servers: servers(&["10.0.0.1:2181"]),
                tls: None,
                root: "/dubbo".into(),
                merge: false,
                login: None,
            },
        ),
        (
            format!("zookeeper: {{ servers: [\"a:2181\", \"b:2181\"], root: /shop/dubbo, merge: true, {user} }}"),
            RegistryConfig::ZooKeeper {
                servers: servers(&["a:2181", "b:2181"]),
                tls: None,
                root: "/shop/dubbo".into(),
                merge: true,
                login: login(),
            },
        ),
        (
            "nacos: { url: \"http://h:8848/nacos\" }".into(),
            RegistryConfig::Nacos {
                urls: urls("http://h:8848/nacos"),
                tls: Tls::default(),
                login: None,
                layout: nacos,
            },
        ),
        (
            format!("nacos: {{ url: \"http://h/nacos\", api: v3, namespace: prod, group: SHOP, cluster: BJ, {user} }}"),
            RegistryConfig::Nacos { urls: urls("http://h/nacos"), tls: Tls::default(), login: login(), layout: own },
        ),
        (
            format!("eureka: {{ url: \"http://h:8761/eureka\", {user} }}"),
            RegistryConfig::Eureka { urls: urls("http://h:8761/eureka"), tls: Tls::default(), login: login() },
        ),
        (
            "eureka: { url: [\"http://a:8761/eureka\", \"http://b:8761/eureka/\"] }".into(),
            RegistryConfig::Eureka {
                urls: servers(&["http://a:8761/eureka", "http://b:8761/eureka"]),
                tls: Tls::default(),
                login: None,
            },
        ),
    ] {
        let tree = Tree::with(&[("agent.yaml", &format!("registries: {{ {text} }}\n"))]);
        let name = text.split(':').next().unwrap();
        assert_eq!(tree.config().host.registries[name], compiled, "{text}");
    }
}

#[test]
fn an_instance_is_named_by_its_service_and_address_where_its_id_does_not_last() {
    let bound =
        "register: [{ registry: eureka, service: rpc-order, address: \"[::ffff:10.0.0.1]:7801\", clients_follow: 2m }]";
    let text = format!(
        "registries: {{ eureka: {{ url: \"http://h/eureka\" }}, consul: {{ url: \"http://h\" }} }}\nservices:\n\
         - {{ service: a.service, {bound} }}\n\
         - {{ service: b.service, register: [{{ registry: consul, id: rpc-cart-8bfc5b1e2a08f9e2 }}] }}\n"
    );
    let config = Tree::with(&[("agent.yaml", &text)]).config();
    let a = &config.target_for(&ServiceName::parse("a.service").unwrap()).bindings[0];
    assert_eq!((a.registry.as_str(), a.id.as_str()), ("eureka", "rpc-order at 10.0.0.1:7801"));
    assert_eq!(a.clients_follow, Some(std::time::Duration::from_secs(120)));
    assert_eq!(StandsAt::parse(&a.id).unwrap().to_string(), a.id);
    let random = config.random_ids();
    assert!(random.len() == 1 && random[0].0.as_str() == "b.service", "{random:?}");
    assert!(random[0].1.contains("{ registry: consul, service: NAME, address: \"IP:PORT\" }"), "{random:?}");
}

#[test]
fn what_is_wrong_is_said_where_it_stands() {
    let etcd = |key: &str, more: &str| {
        format!(
            "registries:\n  etcd:\n    url: \"http://h:1\"\n    override: \"/o/{{service}}/{{instance}}\"\n    key: {key}\n{more}"
        )
    };
    let key =
        "5:10 expected `{service}` once and `{instance}` once behind it, as in \"/services/{service}/{instance}\"";
    let bound = |registry: &str, keys: &str| {
        let keys = keys.replace(", ", "\n      ");
        format!(
            "registries: {{ {registry}: {{ url: \"http://h\" }} }}\nservices:\n- service: a.service\n  register:\n    - registry: {registry}\n      {keys}\n"
        )
    };
    for (text, says) in [
        (
            "registries: { etcd: {} }".into(),
            vec![
                "1:15 `key` is missing: add `key: \"/services/{service}/{instance}\"`",
                "1:15 `override` is missing: add `override: \"/overrides/{service}/{instance}\"`",
                "1:15 `url` is missing: add `url: \"http://127.0.0.1:2379\"`",
            ],
        ),
        (etcd("/s/{service}", ""), vec![key]),
        (etcd("\"/s/{instance}/{service}\"", ""), vec![key]),
        (etcd("\"{service}/{instance}\"", ""), vec![key]),
        (etcd("\"/s/{service}{instance}\"", ""), vec![key]),
        (etcd("\"/s/{service}/{service}/{instance}\"", ""), vec![key]),
        (
            etcd("\"/o/{service}/{instance}\"", ""),
            vec!["4:15 this is the service's own key, which the service may overwrite at any time: name another key"],
        ),
        (
            etcd("\"/s/{service}/{instance}\"", "    value: off\n    password_file: /p\n"),
            vec![
                "6:12 expected `{marker}` once, which says whose drain it is, as in '{\"disabled\":true,\"by\":\"{marker}\"}'",
                "7:5 a password needs a user: add `user`",
            ],
        ),
        (
            "registries: { zookeeper: { root: dubbo/ } }".into(),
            vec![
                "1:15 `servers` is missing: add `servers: [\"10.0.0.1:2181\"]`",
                "1:34 expected the path of Dubbo's root node, such as /dubbo",
            ],
        ),
        (
            "registries: { zookeeper: { servers: [\"10.0.0.1\"], user: u } }".into(),
            vec![
                "1:38 expected HOST:PORT, such as 10.0.0.1:2181 or [::1]:2181, found `10.0.0.1`",
                "1:51 a user needs a password: add `password_file: PATH`",
            ],
        ),
        (
            "registries: { nacos: { url: \"h:8848\", group: \"\" } }".into(),
            vec![
                "1:29 expected a URL such as http://127.0.0.1:8848/nacos",
                "1:46 this name is empty: write a name, or remove the line",
            ],
        ),
        (
            "registries: { eureka: { url: \"http://me:pw@h:1/eureka\" } }".into(),
            vec!["1:30 a URL with credentials would appear in logs: put the token into a file of its own"],
        ),
        (
            "registries: { eureka: { url: \"http://h/eureka\" } }\nservices: [{ service: a.service, register: [{ registry: eureka, id: a-1 }] }]"
                .into(),
            vec!["2:69 an instance's id there is APP/INSTANCE-ID, such as rpc-order/bj1-03:rpc-order:7801"],
        ),
        (
            bound("eureka", "id: a/1, service: a, address: \"10.0.0.1:1\""),
            vec!["6:7 an instance is named by its `id`, or by `service` and `address`: remove one"],
        ),
        (bound("eureka", "service: a"), vec!["5:7 `address` is missing: add `address: \"IP:PORT\"`"]),
        (
            bound("eureka", "service: a/b, address: \"0.0.0.0:1\""),
            vec![
                "6:16 expected the name that the service is registered under",
                "7:16 expected the address that the instance is registered with, such as 10.0.0.1:7801",
            ],
        ),
        (
            bound("nacos", "service: a, address: \"10.0.0.1:1\""),
            vec!["6:7 only in Consul and Eureka does an instance's id change at each start; in this registry, name the \
                  instance by `id`"],
        ),
        (
            bound("consul", "id: a at 10.0.0.1:1"),
            vec!["6:11 write it as `service: NAME, address: \"IP:PORT\"`, in place of `id`"],
        ),
    ] {
        let text: String = text;
        let wrong = Tree::with(&[("agent.yaml", &text)]).wrong();
        let expected: Vec<String> = says.iter().map(|says| format!("agent.yaml:{says}")).collect();
        assert_eq!(wrong, expected, "{text}");
    }
}
