;; Answers well and gives up afterwards.
(func (export "cabi_post_falkirk:migration/transform@0.1.0#forward") (param i32) unreachable)
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (call $answer (local.get $count) (i32.const 0) (global.get $values) (i32.const 2)))
