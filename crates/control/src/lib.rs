//! The verbs of the control plane: vDisks, status, metrics; a trait that the API serves and the node implements.
