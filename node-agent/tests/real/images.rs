//! Image archives.

use gantry_node_agent::runtime::images::import_images;

use crate::harness::{IMAGE, Node, isolated, write_busybox};

#[test]
fn an_imported_image_is_one_like_any_other() {
    isolated("images::an_imported_image_is_one_like_any_other", || async {
        let node = Node::start().await;
        let image = node.runtime.image(IMAGE).await.unwrap().expect("imported by the harness");
        assert_eq!(image.tags, [IMAGE]);
        assert_eq!(node.runtime.image(&image.id).await.unwrap().as_ref(), Some(&image));
        let names: Vec<_> = node.runtime.images().await.unwrap().into_iter().flat_map(|image| image.tags).collect();
        assert!(names.contains(&"gantry.local/pause:1".to_owned()), "{names:?}");

        node.runtime.remove_image(IMAGE).await.unwrap();
        node.runtime.remove_image(IMAGE).await.unwrap();
        assert_eq!(node.runtime.image(IMAGE).await.unwrap(), None);

        // The way of the command line: by data directory alone.
        let archive = node.data.join("again.tar");
        write_busybox(&archive);
        assert_eq!(import_images(&node.data, &archive).await.unwrap(), [IMAGE]);
        assert_eq!(import_images(&node.data, &archive).await.unwrap(), [IMAGE], "twice is fine");
        let (_, id) = node.run_pod("fromimport", "exit 0").await;
        node.wait_for_exit(&id).await;
        assert_eq!(node.runtime.container(&id).await.unwrap().reason, "Completed");

        let nothing = node.data.join("nothing.tar");
        std::fs::write(&nothing, b"this is not an archive").unwrap();
        assert!(node.runtime.import_image(&nothing).await.is_err());
        node.stop().await;
    });
}
