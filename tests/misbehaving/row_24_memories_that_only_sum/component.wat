;; Three memories of 16 MiB: each is below the limit, together they are not.
(component (core module $m (memory 256) (data (i32.const 0) "x"))
  (core instance (instantiate $m))
  (core instance (instantiate $m))
  (core instance (instantiate $m))
  (instance $i) (export "falkirk:migration/transform@0.1.0" (instance $i)))
