package udf

// OpenEncoder makes an encoder of bytes that have proved nothing.
func (rt *Runtime) OpenEncoder(spec EncoderSpec, model []byte) (*Encoder, error) {
	return rt.openEncoder(spec, model)
}

// WholeChunks makes a new encoder run as it would on a GPU.
func (e *Encoder) WholeChunks() { e.smallest = laneSizes - 1 }
