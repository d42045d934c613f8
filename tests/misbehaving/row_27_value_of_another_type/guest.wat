;; Answers a truth value for a text.
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (i32.store8 (i32.add (global.get $values) (i32.const 16)) (i32.const 2))
  (i32.store8 (i32.add (global.get $values) (i32.const 24)) (i32.const 1))
  (call $answer (local.get $count) (i32.const 0) (global.get $values) (i32.const 2)))
