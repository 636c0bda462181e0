//! Images in and out, by the tools that others use.

mod rig;

use rig::{Rig, kept_bytes, run, same_bytes, write_sample};

const SIZE: u64 = 96 << 20;

#[test]
fn exported_bytes_equal_imported_ones_in_every_format() {
    for served in [false, true] {
        let rig = Rig::in_mode(served);
        write_sample(&rig.path("in.raw"), SIZE);
        let convert = |args: &[&str], to: &str| {
            run("qemu-img", &[&["convert"], args, &[&rig.text("in.raw"), &rig.text(to)]].concat());
        };
        convert(&["-O", "qcow2"], "plain.qcow2");
        convert(&["-c", "-O", "qcow2"], "packed.qcow2");
        convert(&["-O", "qcow2", "-o", "compat=0.10,cluster_size=4096"], "old.qcow2");
        convert(&["-O", "vmdk"], "sparse.vmdk");
        convert(&["-O", "vmdk", "-o", "subformat=streamOptimized"], "stream.vmdk");
        convert(&["-O", "vmdk", "-o", "subformat=monolithicFlat"], "flat.vmdk");
        for image in [
            "in.raw",
            "plain.qcow2",
            "packed.qcow2",
            "old.qcow2",
            "sparse.vmdk",
            "stream.vmdk",
            "flat.vmdk",
        ] {
            let disk = image.replace('.', "-");
            rig.ok(&["import", &rig.text(image), &disk]);
            rig.ok(&["export", &disk, &rig.text("out.raw"), "--force"]);
            assert!(same_bytes(&rig.path("in.raw"), &rig.path("out.raw")), "{image}");
            assert!(kept_bytes(&rig.path("out.raw")) < 2 << 20, "{image}: holes were lost");
            let referenced = rig.json(&["show", &disk])["disk"]["head"]["referenced_bytes"].clone();
            assert!(referenced.as_u64().unwrap() < 1 << 20, "{image}: {referenced} bytes are kept");
        }
        rig.ok(&["export", "in-raw", &rig.text("out.qcow2"), "--format", "qcow2"]);
        run("qemu-img", &["check", &rig.text("out.qcow2")]);
        run("qemu-img", &["compare", &rig.text("in.raw"), &rig.text("out.qcow2")]);
        assert!(kept_bytes(&rig.path("out.qcow2")) < 4 << 20);
        assert_eq!(rig.bough(&["check"]).code, 0);
    }
}

#[test]
fn a_file_that_is_no_whole_number_of_sectors_is_filled_up_with_zeros() {
    let rig = Rig::new();
    std::fs::write(rig.path("odd"), "hello").unwrap();
    rig.ok(&["import", &rig.text("odd"), "odd"]);
    rig.ok(&["export", "odd", &rig.text("out")]);
    let out = std::fs::read(rig.path("out")).unwrap();
    assert_eq!(out.len(), 512);
    assert_eq!(&out[..5], b"hello");
    assert!(out[5..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_template_is_sealed_and_clones_hold_its_bytes() {
    let rig = Rig::new();
    write_sample(&rig.path("in.raw"), SIZE);
    rig.ok(&["import", &rig.text("in.raw"), "golden", "--template"]);
    assert_eq!(rig.json(&["show", "golden@base"])["sealed"], true);
    rig.ok(&["clone", "golden", "web"]);
    rig.ok(&["export", "web", &rig.text("out.raw")]);
    assert!(same_bytes(&rig.path("in.raw"), &rig.path("out.raw")));
    assert_eq!(rig.json(&["diff", "golden@base", "web"]).as_array().unwrap().len(), 0);
    assert_eq!(rig.json(&["show", "web"])["disk"]["head"]["owned_bytes"], 0);
}

#[test]
fn what_differs_is_exactly_what_was_imported() {
    let rig = Rig::new();
    write_sample(&rig.path("in.raw"), SIZE);
    rig.ok(&["create", "empty", &SIZE.to_string()]);
    rig.ok(&["import", &rig.text("in.raw"), "full"]);
    let extents = rig.json(&["diff", "empty", "full"]);
    let image = std::fs::read(rig.path("in.raw")).unwrap();
    let mut differs = vec![false; image.len() / 4096];
    for extent in extents.as_array().unwrap() {
        assert_eq!(extent["kind"], "data");
        let start = extent["start_bytes"].as_u64().unwrap() / 4096;
        let count = extent["length_bytes"].as_u64().unwrap() / 4096;
        (start..start + count).for_each(|block| differs[usize::try_from(block).unwrap()] = true);
    }
    for (block, bytes) in image.chunks(4096).enumerate() {
        assert_eq!(differs[block], bytes.iter().any(|byte| *byte != 0), "block {block}");
    }
    let back = rig.json(&["diff", "full", "empty"]);
    assert!(back.as_array().unwrap().iter().all(|extent| extent["kind"] == "zero"));
}

#[test]
fn images_that_refer_to_other_files_are_refused_and_leave_no_disk() {
    let rig = Rig::new();
    write_sample(&rig.path("secret.raw"), SIZE);
    let (secret, overlay) = (rig.text("secret.raw"), rig.text("overlay.qcow2"));
    run("qemu-img", &["create", "-f", "qcow2", "-b", &secret, "-F", "raw", &overlay]);
    let error = rig.fails(&["import", &overlay, "stolen"]);
    assert!(error.contains("backing file") && error.contains("qemu-img convert"), "{error}");

    for named in ["/etc/passwd", "../x", "linked"] {
        let _ = std::os::unix::fs::symlink("/etc/passwd", rig.path("linked"));
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
             createType=\"monolithicFlat\"\nRW 2 FLAT \"{named}\" 0\n"
        );
        std::fs::write(rig.path("evil.vmdk"), text).unwrap();
        let error = rig.fails(&["import", &rig.text("evil.vmdk"), "stolen"]);
        assert!(error.contains("evil.vmdk"), "{named}: {error}");
    }
    assert_eq!(rig.disks(), Vec::<String>::new());
}

#[test]
fn images_that_are_cut_off_or_not_images_are_refused_by_name_and_leave_no_disk() {
    for served in [false, true] {
        let rig = Rig::in_mode(served);
        write_sample(&rig.path("in.raw"), SIZE);
        let (raw, qcow2, vmdk) = (rig.text("in.raw"), rig.text("a.qcow2"), rig.text("a.vmdk"));
        run("qemu-img", &["convert", "-O", "qcow2", "-c", &raw, &qcow2]);
        run("qemu-img", &["convert", "-O", "vmdk", "-o", "subformat=streamOptimized", &raw, &vmdk]);
        let mut cut_off = Vec::new();
        for name in ["a.qcow2", "a.vmdk"] {
            let bytes = std::fs::read(rig.path(name)).unwrap();
            for length in [100, 600, bytes.len() / 2] {
                let cut = format!("cut-{length}-{name}");
                std::fs::write(rig.path(&cut), &bytes[..length]).unwrap();
                cut_off.push(cut);
            }
        }
        std::fs::write(rig.path("x.vhdx"), b"vhdxfile and so on").unwrap();
        cut_off.push("x.vhdx".to_owned());
        cut_off.push("missing".to_owned());
        cut_off.push(".".to_owned());
        for name in &cut_off {
            let error = rig.fails(&["import", &rig.text(name), "broken"]);
            assert!(error.contains(name.as_str()), "{name}: {error}");
        }
        assert_eq!(rig.disks(), Vec::<String>::new());
        assert_eq!(rig.bough(&["check"]).code, 0);
    }
}

#[test]
fn an_export_does_not_overwrite_by_accident_and_a_bad_name_leaves_no_file() {
    let rig = Rig::new();
    rig.ok(&["create", "data", "1M"]);
    std::fs::write(rig.path("precious"), "precious").unwrap();
    let error = rig.fails(&["export", "data", &rig.text("precious")]);
    assert!(error.contains("--force"), "{error}");
    assert_eq!(std::fs::read(rig.path("precious")).unwrap(), b"precious");
    rig.fails(&["export", "nobody", &rig.text("new")]);
    assert!(!rig.path("new").exists());
    rig.fails(&["export", "data", &rig.text("no/such/folder")]);
}
