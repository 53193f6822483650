//! Bytes of the messages, as protobuf's own library writes them from kubelet's definitions.
