fn main() {
    let m = wharf_model::Model::open(std::path::Path::new(&std::env::args().nth(1).unwrap()));
    match m {
        Ok(m) => {
            println!("{:?} {:?} {:?}", m.info, m.generation, m.config);
            let v = m.weights.matrix(Some(0), wharf_model::Role::Q).unwrap();
            println!("{} {} {} {} {:?}", v.name, v.rows, v.cols, v.dtype, &v.data[..8]);
            m.weights.release(&v).unwrap();
            println!("{:?}", &v.data[..8]);
        }
        Err(e) => {
            let mut e: &dyn std::error::Error = &e;
            loop {
                println!("{e}");
                match e.source() {
                    Some(s) => e = s,
                    None => break,
                }
            }
        }
    }
}
