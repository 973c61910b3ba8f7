use multihome_plan::node::*; use multihome_model::IfName;
pub(crate) struct Kernel; impl Kernel {
 pub fn open(_:Option<u32>)->Result<Self,String>{Ok(Self)} pub fn observe(&mut self)->Result<NodeState,String>{Ok(Default::default())}
 pub fn apply(&mut self,_:&[Step])->Vec<String>{vec![]} pub fn ifindex(&mut self,_:&IfName)->Result<u32,String>{Ok(1)} pub fn close(&mut self)->Result<(),String>{Ok(())} }
