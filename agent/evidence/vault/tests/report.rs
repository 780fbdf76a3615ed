use super::*;

#[tokio::test]
async fn a_report_lies_beside_what_was_kept_and_is_no_part_of_it() {
    let TestVault { vault, folder: _folder } = place();
    let scene = Scene::new();
    let absent = vault.put_report(&scene.incident, "first").unwrap_err();
    assert!(matches!(absent, EvidenceError::Absent { .. }), "{absent}");
    let bundle = vault.keep(&scene.request()).await.unwrap();
    vault.put_report(&scene.incident, "first").unwrap();
    let path = vault.put_report(&scene.incident, "second").unwrap();
    assert_eq!((path.parent(), std::fs::read_to_string(&path).unwrap()), (Some(bundle.dir.as_path()), "second".into()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let read = vault.read(&scene.incident).unwrap();
    assert_eq!((read.verify(), read.manifest), (Vec::new(), bundle.manifest));
}
