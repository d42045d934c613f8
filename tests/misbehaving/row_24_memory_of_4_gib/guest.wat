;; Asks for all the memory there can be.
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (drop (memory.grow (i32.const 65000)))
  (call $answer (local.get $count) (i32.const 0) (global.get $values) (i32.const 2)))
