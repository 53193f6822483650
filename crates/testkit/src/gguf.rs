//! Writes GGUF files (version 3, GGUF specification), valid ones and, for tests of readers, broken ones.

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `uint8`.
    U8(u8),
    /// `uint16`.
    U16(u16),
    /// `uint32`.
    U32(u32),
    /// `int32`.
    I32(i32),
    /// `uint64`.
    U64(u64),
    /// `float32`.
    F32(f32),
    /// `bool`.
    Bool(bool),
    /// `string`.
    Str(String),
    /// Array of `string`.
    Strs(Vec<String>),
    /// Array of `int32`.
    I32s(Vec<i32>),
    /// Array of `float32`.
    F32s(Vec<f32>),
    /// Type number and bytes as they are, for values that a reader must refuse.
    Raw(u32, Vec<u8>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Str(text.to_owned())
    }
}

/// A tensor of a file to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Name.
    pub name: String,
    /// Extents, fastest dimension first, as the file orders them.
    pub dims: Vec<u64>,
    /// Type number (`enum ggml_type`).
    pub type_id: u32,
    /// Data.
    pub data: Vec<u8>,
}

/// The contents of a GGUF file.
#[derive(Clone, Debug, PartialEq)]
pub struct Builder {
    /// Format version, 3 unless a test wants another.
    pub version: u32,
    /// Alignment of tensor data, bytes. Written as `general.alignment` unless it is 32.
    pub alignment: usize,
    /// Keys in file order.
    pub metadata: Vec<(String, Value)>,
    /// Tensors in file order.
    pub tensors: Vec<Tensor>,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder { version: 3, alignment: 32, metadata: Vec::new(), tensors: Vec::new() }
    }
}

impl Builder {
    /// Adds a key.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Builder {
        self.metadata.push((key.to_owned(), value.into()));
        self
    }

    /// Adds a tensor of `rows` by `cols` elements (`rows` 1 for a vector).
    pub fn tensor(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
        type_id: u32,
        data: Vec<u8>,
    ) -> &mut Builder {
        let dims = if rows == 1 { vec![cols as u64] } else { vec![cols as u64, rows as u64] };
        self.tensors.push(Tensor { name: name.to_owned(), dims, type_id, data });
        self
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut metadata = self.metadata.clone();
        if self.alignment != 32 {
            metadata.insert(0, ("general.alignment".to_owned(), Value::U32(self.alignment as u32)));
        }
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in &metadata {
            string(&mut out, key);
            write_value(&mut out, value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            string(&mut out, &tensor.name);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.type_id.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += tensor.data.len().next_multiple_of(self.alignment);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&tensor.data);
        }
        out
    }
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    let mut scalar = |type_id: u32, bytes: &[u8]| {
        out.extend(type_id.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Value::U8(x) => scalar(0, &x.to_le_bytes()),
        Value::U16(x) => scalar(2, &x.to_le_bytes()),
        Value::U32(x) => scalar(4, &x.to_le_bytes()),
        Value::I32(x) => scalar(5, &x.to_le_bytes()),
        Value::F32(x) => scalar(6, &x.to_le_bytes()),
        Value::Bool(x) => scalar(7, &[u8::from(*x)]),
        Value::U64(x) => scalar(10, &x.to_le_bytes()),
        Value::Raw(type_id, bytes) => scalar(*type_id, bytes),
        Value::Str(text) => {
            out.extend(8u32.to_le_bytes());
            string(out, text);
        }
        Value::Strs(list) => {
            array_head(out, 8, list.len());
            list.iter().for_each(|text| string(out, text));
        }
        Value::I32s(list) => {
            array_head(out, 5, list.len());
            list.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Value::F32s(list) => {
            array_head(out, 6, list.len());
            list.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
    }
}

fn array_head(out: &mut Vec<u8>, element_type: u32, len: usize) {
    out.extend(9u32.to_le_bytes());
    out.extend(element_type.to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
